"""What must hold of loans, judged from messages alone: who is lent a backend, where KV lands."""

import math
from collections import defaultdict
from collections.abc import Iterator
from typing import NamedTuple

from common.messages import (
    LOST_MEMBER,
    BrokerFacts,
    Cancel,
    EndOfRequest,
    Goodbye,
    Grant,
    Handshake,
    Heartbeat,
    Hello,
    KvAck,
    KvCommit,
    KvLayer,
    Refused,
    Release,
    Welcome,
)
from tests.simulation.history import Event


class Transfer(NamedTuple):
    """One chunk's KV of one member."""

    request: str
    attempt: int
    chunk: int
    rank: int


Owner = tuple[str, int]


class Lending:
    """What one life of a broker must know of one decode instance: who wants and who has what."""

    def __init__(self, num_backends: int) -> None:
        self._num_backends = num_backends
        self._newest: dict[int, int] = {}
        self._lent: dict[Transfer, tuple[int, int]] = {}
        self._kept: dict[Owner, set[int]] = {}
        """Backends of each request, from the first loan to its end, in order of handshake."""
        self._wanted: dict[Owner, tuple[int, int]] = {}
        """How many each can use, and how many transfers it has."""
        self._announced: dict[Transfer, tuple[int, int]] = {}
        self._waiting: set[Transfer] = set()
        self._through: set[Transfer] = set()
        self._over: set[Owner] = set()

    def wants(self, owner: Owner) -> bool:
        """Whether the request has shaken hands and is not over."""
        return owner in self._kept

    def handshake(self, message: Handshake) -> None:
        owner = (message.request, message.attempt)
        transfer = Transfer(*owner, message.chunk, message.rank)
        if owner in self._over or transfer in self._through:
            return
        if owner not in self._kept:
            for older in [o for o in self._kept if o[0] == owner[0] and o[1] < owner[1]]:
                self.over(older)
            wanted = min(message.num_senders, message.num_transfers, self._num_backends)
            self._kept[owner], self._wanted[owner] = set(), (wanted, message.num_transfers)
        if message.held is not None:
            self._announced[transfer] = (message.held.backend, message.held.generation)
        if transfer not in self._lent:
            self._waiting.add(transfer)

    def release(self, message: Release) -> None:
        owner = (message.request, message.attempt)
        transfer = Transfer(*owner, message.chunk, message.rank)
        self._through.add(transfer)
        self._lent.pop(transfer, None)
        self._waiting.discard(transfer)
        through = sum(one[:2] == owner for one in self._through)
        if message.is_last or through == self._wanted.get(owner, (0, 0))[1]:
            self.over(owner)

    def over(self, owner: Owner) -> None:
        self._over.add(owner)
        self._kept.pop(owner, None)
        self._waiting -= {one for one in self._waiting if one[:2] == owner}
        for transfer in [one for one in self._lent if one[:2] == owner]:
            del self._lent[transfer]

    def grant(self, grant: Grant) -> Iterator[str]:
        transfer = Transfer(grant.request, grant.attempt, grant.chunk, grant.rank)
        loan, owner = (grant.backend, grant.generation), transfer[:2]
        if self._lent.get(transfer) == loan:
            return
        if transfer not in self._waiting:
            yield f"I4 {transfer} is lent {loan} and has {self._lent.get(transfer)}"
        taken = [backend for backend, _ in self._lent.values()]
        if grant.backend in taken or any(
            grant.backend in kept for other, kept in self._kept.items() if other != owner
        ):
            yield f"I4 backend {grant.backend} is lent twice, now to {transfer}"
        if grant.generation <= self._newest.get(grant.backend, 0):
            yield f"I7 generation {grant.generation} of backend {grant.backend} is not new"
        if self._announced.get(transfer) != loan and grant.backend not in self._kept[owner]:
            yield from self._overtaken(owner)
        self._waiting.discard(transfer)
        self._lent[transfer] = loan
        self._kept[owner].add(grant.backend)
        self._newest[grant.backend] = grant.generation

    def _overtaken(self, owner: Owner) -> Iterator[str]:
        for other, kept in self._kept.items():
            if other == owner:
                return
            is_waiting = any(one[:2] == other for one in self._waiting)
            if is_waiting and len(kept) < self._wanted[other][0]:
                yield f"I4 {owner} overtakes {other}"


Lendings = dict[str, tuple[int, Lending]]
"""Of one broker, by decode instance, with its life."""


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
        self._lendings: dict[str, Lendings] = {}
        self._ended: defaultdict[str, set[Owner]] = defaultdict(set)

    def take(self, event: Event) -> Iterator[str]:
        where, lendings = event.where, self._lendings.setdefault(event.where, {})
        if event.time - self._heard.get(where, event.time) > self._lease:
            self._unsure.add(where)
        match event.way, event.message:
            case "took", Welcome() | Refused() | Goodbye():
                self._heard[where] = event.time
                self._hear(where, lendings, event.message)
            case "sent", Hello() | Heartbeat():
                self._say(where, lendings, event.message)
            case "took", _:
                self._note(where, lendings, event.message)
            case "sent", Grant() as grant if where not in self._unsure:
                yield from self._grant(lendings, grant)

    def _hear(self, where: str, lendings: Lendings, message: object) -> None:
        match message:
            case Refused(reason=reason, incarnation=life) if reason == LOST_MEMBER:
                if life == self._lives.get(where, 1):
                    lendings.clear()

    def _say(self, where: str, lendings: Lendings, message: Hello | Heartbeat) -> None:
        match message:
            case Hello(peer=peer):
                self._lives[where] = peer.incarnation
            case Heartbeat(incarnation=life, facts=BrokerFacts(held=held, waiting=waiting)):
                self._lives[where] = life
                if where in self._unsure and not held and not waiting:
                    lendings.clear()
                    self._unsure.discard(where)

    def _note(self, where: str, lendings: Lendings, message: object) -> None:
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

    def _handshake(self, where: str, lendings: Lendings, message: Handshake) -> None:
        target = message.target
        life, lending = lendings.get(target.name, (0, None))
        if target.incarnation > life:
            life, lending = target.incarnation, Lending(target.num_backends)
            lendings[target.name] = life, lending
        is_over = (message.request, message.attempt) in self._ended[where]
        if lending is not None and life == target.incarnation and not is_over:
            lending.handshake(message)

    def _grant(self, lendings: Lendings, grant: Grant) -> Iterator[str]:
        owner = (grant.request, grant.attempt)
        mine = [one for _, one in lendings.values() if one.wants(owner)]
        if len(mine) != 1:
            yield f"I4 {owner} is lent a backend and wants none"
        for lending in mine:
            yield from lending.grant(grant)


class Landing:
    """I7: KV lands only under a loan that was granted to its transfer, and under no older one."""

    def __init__(self) -> None:
        self._granted: set[tuple[Transfer, int, int]] = set()
        self._newest: dict[tuple[str, int], int] = {}
        self._committed: defaultdict[str, set[Transfer]] = defaultdict(set)
        self._taken: dict[str, KvLayer | KvCommit] = {}

    def take(self, event: Event) -> Iterator[str]:
        match event.way, event.message:
            case "sent", Grant() as grant:
                self._granted.add((_transfer(grant), grant.backend, grant.generation))
            case "took", KvLayer() | KvCommit() as message:
                self._taken[event.where] = message
            case "sent", KvAck() as ack:
                yield from self._judge(event.where, ack)

    def end(self) -> Iterator[str]:
        yield from ()

    def _judge(self, where: str, ack: KvAck) -> Iterator[str]:
        # Answers are given at once, so it is to what came last.
        message, transfer = self._taken.get(where), _transfer(ack)
        if message is None or (_transfer(message), message.generation) != (
            transfer,
            ack.generation,
        ):
            yield f"I7 {transfer} is acknowledged and did not come"
            return
        if (transfer, message.backend, ack.generation) not in self._granted:
            yield f"I7 KV of {transfer} landed under loan {ack.generation}"
        place = (where, message.backend)
        is_repeated = isinstance(message, KvCommit) and transfer in self._committed[where]
        if not is_repeated and ack.generation < self._newest.get(place, 0):
            yield f"I7 KV of {transfer} landed under loan {ack.generation}, an old one"
        if not is_repeated:
            self._newest[place] = ack.generation
        if isinstance(message, KvCommit):
            self._committed[where].add(transfer)


def _transfer(message: Grant | KvLayer | KvCommit | KvAck) -> Transfer:
    return Transfer(message.request, message.attempt, message.chunk, message.rank)
