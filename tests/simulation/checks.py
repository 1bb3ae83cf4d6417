"""What must hold of every history, judged from messages alone and without the services' code.

Each check is fed the events in their order, while they happen or afterwards, and says what is
wrong; `end` says what is missing when everything is at rest.
"""

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import NamedTuple, Protocol

from common.messages import (
    LOST_MEMBER,
    BrokerFacts,
    Cancel,
    ChunkDone,
    DecodeFacts,
    DecodeStats,
    EndOfRequest,
    FirstToken,
    Goodbye,
    Grant,
    Handshake,
    Heartbeat,
    Hello,
    KvAck,
    PrefillFacts,
    Refused,
    Release,
    RunChunk,
    TokenBatch,
    Welcome,
)
from tests.simulation.history import ANSWERED, Asked, Event, Given, Over


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
            case "sent", FirstToken(token=token):
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


class Transfer(NamedTuple):
    """One chunk's KV of one member."""

    request: str
    attempt: int
    chunk: int
    rank: int


class Lending:
    """What one life of a broker must know of one decode instance: who wants and who has what."""

    def __init__(self, num_backends: int) -> None:
        self.lent: dict[Transfer, tuple[int, int]] = {}
        self.newest: dict[int, int] = {}
        self._num_backends = num_backends
        self._wanted: dict[tuple[str, int], int] = {}  # in order of first handshake
        self._transfers: dict[tuple[str, int], int] = {}
        self._over: set[tuple[str, int]] = set()
        self._waiting: set[Transfer] = set()
        self._released: set[Transfer] = set()

    def handshake(self, message: Handshake) -> None:
        owner = (message.request, message.attempt)
        if owner in self._over:
            return
        for older in [o for o in self._wanted if o[0] == owner[0] and o[1] < owner[1]]:
            self.over(older)
        wanted = min(message.num_senders, message.num_transfers, self._num_backends)
        self._wanted.setdefault(owner, wanted)
        self._transfers.setdefault(owner, message.num_transfers)
        transfer = Transfer(*owner, message.chunk, message.rank)
        if message.held is not None and transfer not in self._released:
            self.lent.setdefault(transfer, (message.held.backend, message.held.generation))
            self._waiting.discard(transfer)
        elif transfer not in self.lent and transfer not in self._released:
            self._waiting.add(transfer)

    def release(self, message: Release) -> None:
        owner = (message.request, message.attempt)
        transfer = Transfer(*owner, message.chunk, message.rank)
        if self.lent.pop(transfer, None) is not None:
            self._released.add(transfer)
        through = sum(one[:2] == owner for one in self._released)
        if message.is_last or through == self._transfers.get(owner):
            self.over(owner)

    def over(self, owner: tuple[str, int]) -> None:
        self._over.add(owner)
        self._wanted.pop(owner, None)
        for books in (self._waiting, self._released):
            books.difference_update([one for one in books if one[:2] == owner])
        for transfer in [one for one in self.lent if one[:2] == owner]:
            del self.lent[transfer]

    def grant(self, grant: Grant) -> Iterator[str]:
        transfer = Transfer(grant.request, grant.attempt, grant.chunk, grant.rank)
        loan = (grant.backend, grant.generation)
        if self.lent.get(transfer) == loan:
            return
        if transfer in self.lent:
            yield f"I4 {transfer} has {self.lent[transfer]} and is lent {loan}"
        elif transfer not in self._waiting:
            yield f"I4 {transfer} is lent a backend and did not ask for it"
        if grant.backend in [backend for backend, _ in self.lent.values()]:
            yield f"I4 backend {grant.backend} is lent twice, now to {transfer}"
        if grant.generation <= self.newest.get(grant.backend, 0):
            yield f"I7 generation {grant.generation} of backend {grant.backend} is not new"
        yield from self._overtaken(transfer)
        self._waiting.discard(transfer)
        self.lent[transfer] = loan
        self.newest[grant.backend] = grant.generation

    def _overtaken(self, transfer: Transfer) -> Iterator[str]:
        for owner, wanted in self._wanted.items():
            if owner == transfer[:2]:
                return
            has = sum(one[:2] == owner for one in self.lent)
            if has < wanted and any(one[:2] == owner for one in self._waiting):
                yield f"I4 {transfer} overtakes {owner}"


class Loans:
    """I4: no backend is lent twice at a time, none to a later request that should wait.

    Args:
        lease: seconds after which a broker that hears no router may let go of everything. Whether
            it did is unknown until it says that it holds nothing.
    """

    def __init__(self, lease: float = math.inf) -> None:
        self._lease = lease
        self._heard: dict[str, float] = {}
        self._lives: dict[str, int] = {}
        self._unsure: set[str] = set()
        self._lendings: dict[str, dict[str, tuple[int, Lending]]] = {}
        self._ended: defaultdict[str, set[tuple[str, int]]] = defaultdict(set)

    def take(self, event: Event) -> Iterator[str]:
        where, lendings = event.where, self._lendings.setdefault(event.where, {})
        if event.time - self._heard.get(where, event.time) > self._lease:
            self._unsure.add(where)
        match event.way, event.message:
            case "took", Welcome() | Refused() | Goodbye():
                self._heard[where] = event.time
                refused = getattr(event.message, "reason", "") == LOST_MEMBER
                if refused and event.message.incarnation == self._lives.get(where, 1):
                    lendings.clear()
            case "sent", Heartbeat(incarnation=life, facts=BrokerFacts() as facts):
                self._lives[where] = life
                if where in self._unsure and not facts.held and not facts.waiting:
                    lendings.clear()
                    self._unsure.discard(where)
            case "took", _:
                self._note(where, lendings, event.message)
            case "sent", Grant() as grant if where not in self._unsure:
                yield from self._grant(lendings, grant)

    def _note(self, where: str, lendings: dict[str, tuple[int, Lending]], message: object) -> None:
        match message:
            case Handshake():
                self._handshake(where, lendings, message)
            case Release():
                life, lending = lendings.get(message.target, (0, None))
                if lending is not None and life == message.incarnation:
                    lending.release(message)
            case EndOfRequest() | Cancel():
                self._ended[where].add((message.request, message.attempt))
                for _, lending in lendings.values():
                    lending.over((message.request, message.attempt))

    def end(self) -> Iterator[str]:
        yield from ()

    def _handshake(
        self, where: str, lendings: dict[str, tuple[int, Lending]], message: Handshake
    ) -> None:
        target = message.target
        life, lending = lendings.get(target.name, (0, None))
        if target.incarnation > life:
            life, lending = target.incarnation, Lending(target.num_backends)
            lendings[target.name] = life, lending
        is_over = (message.request, message.attempt) in self._ended[where]
        if lending is not None and life == target.incarnation and not is_over:
            lending.handshake(message)

    def _grant(self, lendings: dict[str, tuple[int, Lending]], grant: Grant) -> Iterator[str]:
        owner = (grant.request, grant.attempt)
        mine = [one for _, one in lendings.values() if owner in one._wanted]
        if len(mine) != 1:
            yield f"I4 {owner} is lent a backend and wants none"
        for lending in mine:
            yield from lending.grant(grant)


class Landing:
    """I7: decode acknowledges KV only of a transfer that was granted that very loan."""

    def __init__(self) -> None:
        self._granted: set[tuple[Transfer, int]] = set()

    def take(self, event: Event) -> Iterator[str]:
        match event.way, event.message:
            case "sent", Grant() as grant:
                transfer = Transfer(grant.request, grant.attempt, grant.chunk, grant.rank)
                self._granted.add((transfer, grant.generation))
            case "sent", KvAck() as ack:
                transfer = Transfer(ack.request, ack.attempt, ack.chunk, ack.rank)
                if (transfer, ack.generation) not in self._granted:
                    yield f"I7 KV of {transfer} landed under loan {ack.generation}"

    def end(self) -> Iterator[str]:
        yield from ()


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

    def take(self, event: Event) -> Iterator[str]:
        match event.way, event.message:
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


def judge(events: Iterable[Event]) -> list[str]:
    """All that is wrong with a recorded history."""
    judge_ = Judge()
    for event in events:
        judge_.take(event)
    judge_.end()
    return judge_.violations
