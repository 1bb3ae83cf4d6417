"""Who may send KV to one decode instance now: backends, lent in order of first handshake.

Pure: no clock, no I/O, time is an argument. One manager belongs to one life of one decode
instance.

A request keeps every backend that it has reserved until all its transfers are through, so no
later request can starve a half-transferred one. A backend's generation grows with every loan:
frames of an older loan are recognised and dropped by the receiver.

A broker that takes another's place knows nothing of the loans under way: their senders announce
them, and until they have had time for it the manager lends nothing of its own.

Source:
    Specification, section 5.
"""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from common.messages import Endpoint, Grant, Handshake, Held, Loan, Release
from common.pages import Owner
from common.recent import Recent

MAX_REQUESTS = 4096
"""Requests in transfer to one decode instance; handshakes beyond wait to be repeated."""
MAX_GENERATION = 2**62
"""Nobody lends so late: an announced generation from here on is a lie."""


class Transfer(NamedTuple):
    """One chunk's KV of one member."""

    chunk: int
    rank: int


class Granted(NamedTuple):
    """A grant and the inbox of the sender that it is for."""

    inbox: Endpoint
    grant: Grant


class _Waiting(NamedTuple):
    inbox: Endpoint
    since: float


@dataclass
class _Request:
    num_transfers: int
    num_wanted: int
    since: float
    waiting: dict[Transfer, _Waiting] = field(default_factory=dict)
    lent: dict[Transfer, Grant] = field(default_factory=dict)
    idle: deque[int] = field(default_factory=deque)
    released: set[Transfer] = field(default_factory=set)

    @property
    def reserved(self) -> int:
        return len(self.idle) + len(self.lent)

    def release(self, transfer: Transfer) -> bool:
        """Book a transfer that is through; False when it had not asked for a backend."""
        if transfer in self.lent:
            self.idle.append(self.lent.pop(transfer).backend)
        elif transfer not in self.waiting:
            return False
        self.waiting.pop(transfer, None)
        self.released.add(transfer)
        return True


class ReceiveManager:
    """The backends of one decode instance and the requests that want them.

    Args:
        num_backends: transfers that may be under way at once.
        generation: below every generation that this manager gives; a restarted broker passes
            a larger one, so that receivers take its loans for newer.
        lends_from: until then announced loans are taken over and all else waits for `advance`.
    """

    def __init__(
        self, num_backends: int, generation: int = 0, lends_from: float = float("-inf")
    ) -> None:
        self.num_backends = num_backends
        self._free = deque(range(num_backends))
        self._base = generation
        self._newest = [0] * num_backends  # generations, as far as this manager knows
        self._lends_from = lends_from
        self._is_lending = lends_from == float("-inf")
        self._requests: dict[Owner, _Request] = {}  # in order of first handshake
        self._ended: Recent[Owner] = Recent(MAX_REQUESTS)
        # Transfers whose release came before their handshake.
        self._through: Recent[tuple[Owner, Transfer]] = Recent(MAX_REQUESTS)

    @property
    def lent(self) -> int:
        """Backends through which a transfer may be under way."""
        return sum(len(request.lent) for request in self._requests.values())

    @property
    def reserved(self) -> int:
        """Backends that belong to a request, lent or not."""
        return self.num_backends - len(self._free)

    @property
    def waiting(self) -> int:
        """Transfers that have shaken hands and wait for a backend."""
        return sum(len(request.waiting) for request in self._requests.values())

    def oldest(self, now: float) -> float:
        """Age of the oldest handshake that waits for a backend, 0 where none does."""
        waiting = (one for request in self._requests.values() for one in request.waiting.values())
        return max((now - one.since for one in waiting), default=0.0)

    @property
    def is_idle(self) -> bool:
        """Whether no request wants or keeps a backend."""
        return not self._requests

    def held(self, now: float) -> Iterator[Held]:
        """Every request with the backends that it has reserved, and for how long it is here."""
        for owner, request in self._requests.items():
            yield Held(*owner, request.reserved, max(now - request.since, 0.0))

    def renew(self, generation: int) -> None:
        """Lend above this generation from now on.

        Meanwhile other brokers may have lent the same backends: their loans must look older.
        """
        self._base = max(self._base, generation)

    def advance(self, now: float) -> list[Granted]:
        """Time has passed; the loans that waited for it."""
        if self._is_lending or now < self._lends_from:
            return []
        self._is_lending = True
        loans = self._reserve()
        for owner, request in self._requests.items():
            loans += self._lend(owner, request)
        return loans

    def handshake(self, message: Handshake, now: float) -> list[Granted]:
        """A sender asks; the loans to send now, none while it has to wait.

        A repeated handshake of a transfer that holds a backend gets the same grant again, and so
        does one that was granted by a former life of the broker, if its backend is not taken.
        """
        owner = Owner(message.request, message.attempt)
        transfer = Transfer(message.chunk, message.rank)
        if (owner, transfer) in self._through:
            return []
        loans = self._retire_older(owner)
        request = self._requests.get(owner) or self._enter(owner, message, now)
        if request is None:
            return loans
        if transfer in request.lent:
            return [*loans, Granted(message.sender.inbox, request.lent[transfer])]
        if transfer in request.released or self._is_full(request, transfer):
            return loans
        known = request.waiting.get(transfer)
        request.waiting[transfer] = _Waiting(message.sender.inbox, known.since if known else now)
        loans += self._adopt(owner, request, message)
        return loans + self._reserve() + self._lend(owner, request)

    def release(self, message: Release) -> list[Granted]:
        """A transfer is through; its backend goes to the next one. Idempotent."""
        owner = Owner(message.request, message.attempt)
        if message.is_last:
            return self.end(owner)
        transfer = Transfer(message.chunk, message.rank)
        request = self._requests.get(owner)
        if request is None or not request.release(transfer):
            self._through.add((owner, transfer))
            return []
        if len(request.released) == request.num_transfers:
            return self.end(owner)
        return self._lend(owner, request)

    def end(self, owner: Owner) -> list[Granted]:
        """The request is over at whatever stage; its backends go to the next. Idempotent."""
        self._ended.add(owner)
        request = self._requests.pop(owner, None)
        if request is None:
            return []
        self._free.extend(grant.backend for grant in request.lent.values())
        self._free.extend(request.idle)
        return self._reserve()

    def _enter(self, owner: Owner, message: Handshake, now: float) -> _Request | None:
        """Take a new request in; None when it is over or there are too many."""
        if owner in self._ended or len(self._requests) >= MAX_REQUESTS:
            return None
        num_wanted = min(message.num_senders, message.num_transfers, self.num_backends)
        request = _Request(message.num_transfers, num_wanted, now)
        self._requests[owner] = request
        return request

    def _retire_older(self, owner: Owner) -> list[Granted]:
        """A newer attempt ends the older ones of the same request."""
        if owner in self._requests:
            return []
        older = [
            other
            for other in self._requests
            if other.request == owner.request and other.attempt < owner.attempt
        ]
        return [loan for other in older for loan in self.end(other)]

    def _is_full(self, request: _Request, transfer: Transfer) -> bool:
        known = len(request.waiting) + len(request.lent) + len(request.released)
        return transfer not in request.waiting and known >= request.num_transfers

    def _adopt(self, owner: Owner, request: _Request, message: Handshake) -> list[Granted]:
        """Book a loan from a former life of the broker, unless its backend is another's."""
        held, transfer = message.held, Transfer(message.chunk, message.rank)
        if held is None or not self._is_adoptable(request, held):
            return []
        (request.idle if held.backend in request.idle else self._free).remove(held.backend)
        self._newest[held.backend] = held.generation
        del request.waiting[transfer]
        grant = Grant(*owner, *transfer, held.backend, held.generation)
        request.lent[transfer] = grant
        return [Granted(message.sender.inbox, grant)]

    def _is_adoptable(self, request: _Request, held: Loan) -> bool:
        if held.backend >= self.num_backends:
            return False
        # Receivers refuse what is older than a loan that they have seen.
        if not self._newest[held.backend] < held.generation < MAX_GENERATION:
            return False
        has_room = request.reserved < request.num_wanted
        return held.backend in request.idle or (has_room and held.backend in self._free)

    def _reserve(self) -> list[Granted]:
        """Hand free backends out, to the request with the earliest first handshake first."""
        loans: list[Granted] = []
        for owner, request in self._requests.items():
            if not (self._free and self._is_lending):
                break
            while self._free and request.reserved < request.num_wanted:
                request.idle.append(self._free.popleft())
            loans += self._lend(owner, request)
        return loans

    def _lend(self, owner: Owner, request: _Request) -> list[Granted]:
        """Give a request's idle backends to its transfers, first come first served."""
        loans: list[Granted] = []
        while self._is_lending and request.idle and request.waiting:
            transfer, waiting = next(iter(request.waiting.items()))
            del request.waiting[transfer]
            backend = request.idle.popleft()
            self._newest[backend] = max(self._base, self._newest[backend]) + 1
            grant = Grant(*owner, *transfer, backend, self._newest[backend])
            request.lent[transfer] = grant
            loans.append(Granted(waiting.inbox, grant))
        return loans
