"""Whether a mesh at rest holds nothing: no KV, no backend, no request, no thread, no descriptor."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.faults import control

LIMIT = 60.0
"""Seconds in which everything must have gone back; a mesh that leaks never gets there."""
SLACK_FDS = 24
"""Descriptors by which a process may exceed its baseline: connections to peers are lazy."""
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
    except OSError:
        return None
    processes = 1 + sum(len(text.split()) for text in children)
    return Footprint(fds, len(threads), processes, 1024 * int(status["VmRSS"].split()[0]))


class Baselines:
    """The footprint of each life at its first rest."""

    def __init__(self) -> None:
        self._first: dict[int, Footprint] = {}

    def excess(self, pids: dict[str, int]) -> list[str]:
        """Which processes take more than when they were first seen at rest."""
        found = []
        for name, pid in pids.items():
            taken = footprint(pid)
            if taken is None:
                continue
            first = self._first.setdefault(pid, taken)
            if taken.fds > first.fds + SLACK_FDS:
                found.append(f"{name} has {taken.fds} descriptors, {first.fds} at first")
            if taken.threads > first.threads + SLACK_THREADS:
                found.append(f"{name} has {taken.threads} threads, {first.threads} at first")
            if taken.processes > first.processes:
                found.append(f"{name} has {taken.processes} processes, {first.processes} at first")
        return found


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
