"""A real mesh to break: its processes by name, what they logged, and what is right about it."""

import json
import pydoc_data.topics
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tests.faults import control
from tests.faults.quiescence import Baselines, await_quiet, held
from tests.faults.stream import Answer, Request, Stream, now
from tests.processes.real_mesh import RealMesh, running_mesh

COMPLETE = 180.0
"""Seconds in which a mesh must have all its members again."""
HIT = 90.0
"""Seconds in which an armed place must have been reached."""
HEARD = 1.2
"""Seconds since its last heartbeat at which a member certainly lives."""
TEXT = "\n\n".join(pydoc_data.topics.topics.values())
CHARACTERS = 4
"""Characters of that text to a token, roughly."""
NUM_PROMPTS = 2
"""Few, since each costs an undisturbed answer for every length and sampling."""
Event = dict[str, Any]


def prompt(index: int, num_tokens: int) -> str:
    """One of many prompts of about so many tokens."""
    begin = index * 20_000 % (len(TEXT) - 20_000)
    return TEXT[begin : begin + CHARACTERS * num_tokens]


PROBE = Request(prompt(0, 40), 4, plan="1")
"""A short request, to find out whether any is answered."""


@dataclass
class Arena:
    """One running mesh and the answers that it gave undisturbed."""

    mesh: RealMesh
    roles: dict[str, str]
    """Role by name of all that belongs to the whole mesh."""
    baselines: Baselines | None = None
    """Known once everything has worked."""
    references: dict[Request, Answer] = field(default_factory=dict)

    @property
    def is_running(self) -> bool:
        """Whether the launcher is still there."""
        return self.mesh.process.poll() is None

    def names(self, role: str) -> list[str]:
        """All members of a role."""
        return [name for name, own in self.roles.items() if own == role]

    def pid(self, name: str) -> int:
        """The process that bears the name now."""
        return self.mesh.pids()[name]

    def signal(self, name: str, number: signal.Signals) -> float:
        """Send a signal to a member; the moment of it."""
        self.mesh.kill(name, number)
        return now()

    def reference(self, request: Request) -> Answer:
        """The undisturbed answer to that very request on this very mesh."""
        if request not in self.references:
            answer = Stream(self.mesh.url, request).join()
            assert not answer.wrong, f"undisturbed: {answer.wrong}"
            assert len(answer.tokens) == request.max_tokens
            self.references[request] = answer
        return self.references[request]

    def missing(self) -> list[str]:
        """What the mesh lacks of being whole."""
        state = control.status(self.mesh.control)
        if state is None:
            return ["an answer from the operators' door"]
        alive = {
            member["name"]
            for member in state["members"]
            if member["state"] == "serving" and member["silence"] < HEARD
        }
        found = [
            name for name, role in self.roles.items() if role != "router" and name not in alive
        ]
        return found + [name for name in self.roles if name not in self.mesh.pids()]

    def await_complete(self, limit: float = COMPLETE) -> float:
        """Seconds until all members were there and requests are taken."""
        started = time.monotonic()
        while lacking := self._unready():
            assert self.is_running, "the launcher has ended"
            assert time.monotonic() < started + limit, f"still missing: {', '.join(lacking)}"
            time.sleep(0.1)
        return time.monotonic() - started

    def assert_quiescent(self) -> float:
        """Seconds until nothing was held; then every process is as small as at its first rest."""
        seconds = await_quiet(lambda: held(self.mesh.url, self.mesh.control))
        baselines = self.baselines
        if baselines is not None:
            await_quiet(lambda: baselines.excess(self.mesh.pids()), 15.0)
        return seconds

    def warm(self) -> None:
        """Have every worker work, alone and in a group; then note what they take at rest."""
        sizes = [str(size) for size in (1, 2) if size <= len(self.names("prefill-worker"))]
        plans = [sizes[0]] * len(self.names("prefill-worker")) + [f"1:60,{sizes[-1]}"] * 2
        request = Request(prompt(0, 200), 4)
        streams = [Stream(self.mesh.url, replace(request, plan=plan)) for plan in plans]
        for stream in streams:
            assert not stream.join().wrong, stream.answer.wrong
        self.assert_quiescent()
        self.baselines = Baselines(self.roles, self.mesh.pids())

    def mark(self) -> int:
        """A place in the log, for `since`."""
        return len(self.mesh.lines)

    def since(self, mark: int, event: str, **wanted: object) -> list[Event]:
        """Log events after a mark whose fields are as wanted."""
        found = (_parsed(line) for line in self.mesh.lines[mark:] if f'"{event}"' in line)
        return [
            one
            for one in found
            if one.get("event") == event and all(one.get(k) == v for k, v in wanted.items())
        ]

    def await_event(self, mark: int, event: str, limit: float = HIT, **wanted: object) -> Event:
        """The first such event after a mark."""
        deadline = time.monotonic() + limit
        while not (found := self.since(mark, event, **wanted)):
            assert time.monotonic() < deadline, f"no {event} {wanted} within {limit:.0f} s"
            time.sleep(0.01)
        return found[0]

    def _unready(self) -> list[str]:
        lacking = self.missing()
        ready = control.ask(f"{self.mesh.url}/ready")
        return lacking if ready and ready["ready"] else [*lacking, "readiness"]


def _parsed(line: str) -> Event:
    try:
        event = json.loads(line[line.find("{") :])
    except ValueError:
        return {}
    return event if isinstance(event, dict) else {}


@contextmanager
def arena(prefill: int, decode: int, preset: str = "faults.toml", *more: str) -> Iterator[Arena]:
    """A mesh with so many workers, warm and whole."""
    roles = {name: name for name in ("gateway", "kv-transfer", "router")}
    for role, count in (("prefill-worker", prefill), ("decode-worker", decode)):
        roles |= {f"{role}-{index}": role for index in range(count)}
    file = str(Path(__file__).parent / preset)
    counts = ("--prefill", str(prefill), "--decode", str(decode))
    with running_mesh(*counts, *more, preset=file) as mesh:
        made = Arena(mesh, roles)
        made.await_complete()
        made.reference(PROBE)
        made.warm()
        yield made
