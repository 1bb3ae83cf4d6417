"""One try of one row: what it starts, breaks and finds, with everything that it measures."""

import random
import time
from dataclasses import dataclass, field, replace
from signal import Signals

from tests.faults.arena import HIT, NUM_PROMPTS, PROBE, Arena, Event, prompt
from tests.faults.stream import NONE, Difference, Request, Stream, compare, now

REBORN = 120.0
"""Seconds for the launcher to have started a process again."""


@dataclass
class Running:
    """A request that the router has planned."""

    stream: Stream
    planned: Event
    mark: int
    """Its place in the log."""

    @property
    def name(self) -> str:
        """Its name in the mesh."""
        return str(self.planned["request"])

    @property
    def members(self) -> list[str]:
        """Prefill members of its first plan."""
        return str(self.planned["members"]).split()

    @property
    def decode(self) -> str:
        """Decode instance of its first plan."""
        return str(self.planned["decode"])


@dataclass
class Trial:
    """What rows work with.

    Args:
        rng: chooses the victim and the moment.
        seed: of the sampling; None is greedy.
    """

    arena: Arena
    rng: random.Random
    seed: int | None = None
    recoveries: list[float] = field(default_factory=list)
    """Seconds."""
    difference: Difference = NONE
    notes: list[str] = field(default_factory=list)
    _streams: list[Stream] = field(default_factory=list)
    _armed: dict[str, int] = field(default_factory=dict)
    """Process id by name: a new life has no failpoints."""

    def request(
        self, num_tokens: int = 200, max_tokens: int = 16, plan: str | None = None
    ) -> Request:
        """One of the arena's few requests, whose undisturbed answers are known from here on.

        Make it before anything is broken, or has to be busy.
        """
        given = [Request(prompt(i, num_tokens), max_tokens, self.seed) for i in range(NUM_PROMPTS)]
        for request in given:
            self.arena.reference(request)
        return replace(self.rng.choice(given), plan=plan)

    def send(self, request: Request) -> Stream:
        """Start a request whose undisturbed answer is known."""
        self.arena.reference(request)
        self._streams.append(Stream(self.arena.mesh.url, request))
        return self._streams[-1]

    def start(self, request: Request) -> Running:
        """Start a request and wait for its plan."""
        mark, stream = self.arena.mark(), self.send(request)
        return Running(stream, self.arena.await_event(mark, "planned", attempt=1), mark)

    def arm(self, name: str, place: str, action: str, count: int = 1) -> None:
        """Have a member act when it comes to a place for the n-th time from now."""
        self._armed[name] = self.arena.pid(name)
        self.arena.mesh.arm(name, f"{place}={action}:{count}")
        self.notes.append(f"{name} {place}={action}:{count}")

    def disarm(self) -> None:
        """Nothing acts any more."""
        living = self.arena.mesh.pids()
        for name, pid in self._armed.items():
            if living.get(name) == pid:
                self.arena.mesh.arm(name, "")
        self._armed.clear()

    def await_hit(self, mark: int, name: str, place: str, limit: float = HIT) -> float:
        """The moment at which a member came to an armed place."""
        deadline = time.monotonic() + limit
        while not self.arena.since(mark, "failpoint", name=name, point=place):
            assert time.monotonic() < deadline, f"{name} never came to {place}"
            if self._streams and all(stream.is_over for stream in self._streams):
                deadline = min(deadline, time.monotonic() + 1.0)
            time.sleep(0.005)
        return now()

    def signal(self, name: str, number: Signals) -> float:
        """Send a signal; the moment of it."""
        self.notes.append(f"{number.name} to {name}")
        return self.arena.signal(name, number)

    def finish(self, stream: Stream) -> None:
        """The stream ends, and equals the undisturbed one."""
        answer, expected = stream.join(), self.arena.reference(stream.request)
        assert not answer.wrong, f"the stream failed: {answer.wrong}"
        found = compare(expected.tokens, answer.tokens)
        self.difference += found
        assert not found, f"tokens: {found}"
        assert answer.text == expected.text
        assert answer.finishes == expected.finishes
        assert answer.usage == expected.usage, (answer.usage, expected.usage)

    def recovered(self, stream: Stream, since: float) -> None:
        """Note how long the stream stood still."""
        seconds = stream.silence_after(since)
        if seconds is not None:
            self.recoveries.append(seconds)

    def answered(self, since: float) -> None:
        """Note when the next request has been answered; clients try again when told to."""
        refusals = 0
        while (stream := self.send(PROBE)).join().status in (0, 503):
            assert now() < since + REBORN, stream.answer.wrong
            refusals += 1
            time.sleep(0.1)
        self.finish(stream)
        self.recoveries.append(stream.ended - since)
        if refusals:
            self.notes.append(f"{refusals} refused before the next answer")

    def attempts(self, running: Running) -> int:
        """Attempts of a request that were planned so far."""
        events = self.arena.since(running.mark, "planned", request=running.name)
        return max((int(event["attempt"]) for event in events), default=0)

    def assert_planned_again(self, running: Running) -> None:
        """It went on in another attempt."""
        assert self.attempts(running) >= 2, "no second attempt: the fault did not matter"

    def assert_untouched(self, running: Running) -> None:
        """It never needed another attempt."""
        assert self.attempts(running) == 1, f"{self.attempts(running)} attempts"

    def assert_reborn(self, name: str, before: int) -> None:
        """The process of that name is another one; the mesh is whole again."""
        self.arena.await_complete(REBORN)
        assert self.arena.pid(name) != before, f"{name} was not started again"
