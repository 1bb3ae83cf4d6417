"""What must hold of every history, judged from messages alone and without the services' code.

Each check is fed the events in their order, while they happen or afterwards, and says what is
wrong; `end` says what is missing when everything is at rest.
"""

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import Protocol

from common.messages import (
    LOST_MEMBER,
    BrokerFacts,
    ChunkDone,
    DecodeFacts,
    DecodeStats,
    FirstToken,
    Heartbeat,
    Hello,
    PrefillFacts,
    Refused,
    RunChunk,
    TokenBatch,
    Welcome,
)
from tests.simulation.attempts import Handover, Numbering
from tests.simulation.history import ANSWERED, Asked, Event, Given, Over
from tests.simulation.lending import Landing, Loans
from tests.simulation.schedules import Schedules

ROUTER = "mem://router"


class Check(Protocol):
    """One invariant."""

    def take(self, event: Event) -> Iterator[str]:
        """What is wrong with the next event."""

    def end(self) -> Iterator[str]:
        """What is missing at the end."""


class Tokens:
    """I1, I2: every token is the right one, clients get each once and in order, and an end."""

    def __init__(self) -> None:
        self._expected: dict[str, tuple[int, ...]] = {}
        self._given: dict[str, int] = {}
        self._over: set[str] = set()

    def take(self, event: Event) -> Iterator[str]:
        match event.way, event.message:
            case _, Asked(request, expected):
                self._expected[request], self._given[request] = expected, 0
            case _, Given():
                yield from self._give(event.message)
            case _, Over():
                yield from self._finish(event.message)
            case "sent", FirstToken(token=token) if event.to != ROUTER:
                # The router orders prompts of its own, whose tokens nobody reads.
                yield from self._judge(token.request, token.index, token.id)
            case "sent", TokenBatch(tokens=tokens):
                for token in tokens:
                    yield from self._judge(token.request, token.index, token.id)

    def end(self) -> Iterator[str]:
        for request in sorted(self._expected.keys() - self._over):
            yield f"I2 {request} never ended"

    def _give(self, given: Given) -> Iterator[str]:
        request, index = given.request, given.index
        if index != self._given[request] or request in self._over:
            yield f"I1 {request} got position {index} after {self._given[request]}"
        self._given[request] = index + 1
        yield from self._judge(request, index, given.id)

    def _finish(self, over: Over) -> Iterator[str]:
        request = over.request
        if request in self._over:
            yield f"I2 {request} ended twice"
        self._over.add(request)
        if over.outcome == ANSWERED and self._given[request] != len(self._expected[request]):
            wanted = len(self._expected[request])
            yield f"I1 {request} was answered with {self._given[request]} tokens of {wanted}"

    def _judge(self, request: str, index: int, token: int) -> Iterator[str]:
        expected = self._expected.get(request, ())
        if index >= len(expected) or expected[index] != token:
            yield f"I1 {request} has token {token} at {index}"


class Once:
    """I8: a life of a member computes each chunk of an attempt once, in the order of its turns."""

    def __init__(self) -> None:
        self._done: set[tuple[object, ...]] = set()
        self._last: dict[tuple[str, int, int], int] = {}
        self._issued: dict[tuple[object, ...], int] = {}
        self._epochs: dict[tuple[object, ...], int] = {}

    def take(self, event: Event) -> Iterator[str]:
        match event.way, event.message:
            case "sent", ChunkDone() as done:
                key = (done.name, done.incarnation, done.request, done.attempt, done.index)
                if key in self._done:
                    yield f"I8 {key} was computed twice"
                self._done.add(key)
                yield from self._order(done)
            case "sent", RunChunk() as run:
                member = run.members[run.rank]
                seq = self._issued.setdefault(
                    (run.epoch, member.name, member.incarnation, run.turn), run.seq
                )
                if seq != run.seq:
                    yield f"I8 turn {run.turn} of {member.name} is chunk {seq} and {run.seq}"
                self._epochs[member.name, member.incarnation, run.turn, run.seq] = run.epoch

    def end(self) -> Iterator[str]:
        yield from ()

    def _order(self, done: ChunkDone) -> Iterator[str]:
        # Turns count anew in every epoch, and then the chunks' numbers do too.
        epoch = self._epochs.get((done.name, done.incarnation, done.turn, done.seq))
        if epoch is None:
            yield f"I8 {done.name} has computed turn {done.turn}, which was never issued"
            return
        place = (done.name, done.incarnation, epoch)
        if done.turn <= self._last.get(place, 0):
            yield f"I8 {done.name} has computed turn {done.turn} after {self._last[place]}"
        self._last[place] = done.turn


class Plans:
    """I9: groups nest, an attempt has one plan, and none names a life that was declared lost."""

    def __init__(self) -> None:
        self._plans: dict[tuple[str, int, int], object] = {}
        self._lost: defaultdict[str, set[tuple[str, int]]] = defaultdict(set)
        self._names: dict[tuple[str, str], int] = {}
        self._inboxes: dict[str, str] = {}
        self._epochs: dict[str, int] = {}

    def take(self, event: Event) -> Iterator[str]:
        match event.way, event.message:
            case "sent", Welcome(epoch=epoch):
                if self._epochs.setdefault(event.where, epoch) != epoch:
                    # Another router, which does not know whom the one before has lost.
                    self._lost.pop(event.where, None)
                    self._epochs[event.where] = epoch
            case "took", Hello(peer=peer):
                known = self._names.get((event.where, peer.name), peer.incarnation)
                if known < peer.incarnation:
                    self._lost[event.where].add((peer.name, known))
                self._names[event.where, peer.name] = max(known, peer.incarnation)
                self._inboxes[peer.inbox] = peer.name
            case "sent", Refused(reason=reason) as refused if reason == LOST_MEMBER:
                name = self._inboxes.get(event.to, event.to)
                self._lost[event.where].add((name, refused.incarnation))
            case "sent", RunChunk() as run:
                yield from self._judge(event.where, run)

    def end(self) -> Iterator[str]:
        yield from ()

    def _judge(self, where: str, run: RunChunk) -> Iterator[str]:
        key, plan = (run.request, run.attempt, run.epoch), (run.chunks, run.members, run.target)
        if self._plans.setdefault(key, plan) != plan:
            yield f"I9 {key} has two plans"
        sizes = [chunk.size for chunk in run.chunks]
        ends = [0, *(chunk.history + chunk.length for chunk in run.chunks)]
        if sizes != sorted(sizes) or sizes[-1] != len(run.members):
            yield f"I9 groups of {key} do not nest: {sizes}"
        if [chunk.history for chunk in run.chunks] != ends[:-1]:
            yield f"I9 chunks of {key} leave gaps"
        if len({member.name for member in run.members}) != len(run.members):
            yield f"I9 {key} has a member twice"
        for name, life in [(m.name, m.incarnation) for m in (*run.members, run.target)]:
            if (name, life) in self._lost[where]:
                yield f"I9 {key} names {name} of a life that is lost"


class Slots:
    """I3, I4: what members say of their slots and backends adds up."""

    def take(self, event: Event) -> Iterator[str]:
        match event.way, event.message:
            case "sent", Heartbeat(facts=facts) | DecodeStats(facts=facts):
                yield from self._judge(event.where, facts)

    def end(self) -> Iterator[str]:
        yield from ()

    def _judge(self, where: str, facts: object) -> Iterator[str]:
        if isinstance(facts, PrefillFacts | DecodeFacts):
            used = sum(held.slots for held in facts.held)
            if facts.free_slots + used != facts.total_slots:
                yield f"I3 {where}: {facts.free_slots} + {used} are not {facts.total_slots}"
        elif isinstance(facts, BrokerFacts) and facts.lent > facts.backends:
            yield f"I4 {where} has lent {facts.lent} of {facts.backends}"


class Judge:
    """All checks together."""

    def __init__(self, lease: float = math.inf) -> None:
        self.violations: list[str] = []
        self.num_events = 0
        self._checks: tuple[Check, ...] = (
            Tokens(),
            Loans(lease),
            Landing(),
            Once(),
            Plans(),
            Slots(),
            Numbering(),
            Handover(),
            Schedules(),
        )

    def take(self, event: Event) -> None:
        """Judge the next event."""
        self.num_events += 1
        for check in self._checks:
            self.violations += [f"{event.time:.6f} {what}" for what in check.take(event)]

    def end(self) -> None:
        """Judge what should have happened by now."""
        for check in self._checks:
            self.violations += [f"at the end: {what}" for what in check.end()]


def judge(events: Iterable[Event], lease: float = math.inf) -> list[str]:
    """All that is wrong with a recorded history."""
    judge_ = Judge(lease)
    for event in events:
        judge_.take(event)
    judge_.end()
    return judge_.violations
