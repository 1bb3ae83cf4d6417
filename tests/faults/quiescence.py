"""Whether a mesh at rest holds nothing: no KV, no backend, no request, no thread, no descriptor."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.faults import control

LIMIT = 60.0
"""Seconds in which everything must have gone back; a mesh that leaks never gets there."""
SLACK_FDS = 24
"""Descriptors by which a process may exceed the usual: connections to peers are lazy."""
SLACK_THREADS = 2


@dataclass(frozen=True)
class Footprint:
    """What one process takes of its machine; `rss` in bytes."""

    fds: int
    threads: int
    processes: int
    rss: int


def footprint(pid: int) -> Footprint | None:
    """What a process takes now; None when it is gone."""
    home = Path(f"/proc/{pid}")
    try:
        fds = sum(1 for _ in (home / "fd").iterdir())
        threads = [task.name for task in (home / "task").iterdir()]
        children = [(home / "task" / task / "children").read_text() for task in threads]
        status = dict(line.split(":", 1) for line in (home / "status").read_text().splitlines())
        rss = 1024 * int(status["VmRSS"].split()[0])
    except (OSError, KeyError):
        # Gone, or on its way: a process that has ended has no memory any more.
        return None
    processes = 1 + sum(len(text.split()) for text in children)
    return Footprint(fds, len(threads), processes, rss)


class Baselines:
    """What a process of each role takes at rest, once all of them have worked."""

    def __init__(self, roles: dict[str, str], pids: dict[str, int]) -> None:
        self._roles = dict(roles)
        self._usual: dict[str, Footprint] = {}
        for name, pid in pids.items():
            taken = footprint(pid)
            if taken is not None:
                role = self._roles[name]
                self._usual[role] = _most(taken, self._usual.get(role, taken))

    def excess(self, pids: dict[str, int]) -> list[str]:
        """Which processes take more than a process of their role does."""
        found = []
        for name, pid in pids.items():
            taken, usual = footprint(pid), self._usual[self._roles[name]]
            if taken is not None:
                found += [f"{name} has {what}" for what in _more(taken, usual)]
        return found


def _most(one: Footprint, other: Footprint) -> Footprint:
    return Footprint(
        max(one.fds, other.fds),
        max(one.threads, other.threads),
        max(one.processes, other.processes),
        max(one.rss, other.rss),
    )


def _more(taken: Footprint, usual: Footprint) -> list[str]:
    compared = (
        ("descriptors", taken.fds, usual.fds, SLACK_FDS),
        ("threads", taken.threads, usual.threads, SLACK_THREADS),
        ("processes", taken.processes, usual.processes, 0),
    )
    return [
        f"{now} {what}, {before} are usual"
        for what, now, before, slack in compared
        if now > before + slack
    ]


def held(url: str, door: str) -> list[str]:
    """What the mesh still holds, in words; empty at rest.

    Args:
        url: of the API, for the gateway's own figures.
        door: of the operators.
    """
    state, entries = control.status(door), control.ledger(door)
    if state is None or entries is None:
        return ["the operators' door does not answer"]
    found = [f"{state[name]} {name}" for name in ("waiting", "requests") if state[name]]
    for member in state["members"]:
        found += [
            f"{member['name']}: {member[name]} {name}"
            for name in ("used", "active")
            if member[name]
        ]
    found += [
        f"{entry['member']} holds {entry['slots']} of {entry['request']}/{entry['attempt']}"
        for entry in entries
    ]
    shown = control.figures(url, "tetris_mesh_in_use", "tetris_gateway_open_requests")
    return found + [f"{name} is {value:g}" for name, value in shown.items() if value]


def await_quiet(still: Callable[[], list[str]], limit: float = LIMIT) -> float:
    """Seconds until nothing was held any more."""
    started = time.monotonic()
    while left := still():
        assert time.monotonic() < started + limit, f"after {limit:.0f} s: " + "; ".join(left[:12])
        time.sleep(0.1)
    return time.monotonic() - started
