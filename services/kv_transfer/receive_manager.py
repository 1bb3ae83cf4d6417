"""Who may send KV to one decode instance now: backends, lent in order of first handshake.

Pure: no clock, no I/O. One manager belongs to one life of one decode instance.

A request keeps every backend that it has reserved until all its transfers are through, so no
later request can starve a half-transferred one. A backend's generation grows with every loan:
frames of an older loan are recognised and dropped by the receiver.

Source:
    Specification, section 5.
"""

from collections import deque
from dataclasses import dataclass, field
from typing import NamedTuple

from common.messages import Endpoint, Grant, Handshake, Release
from common.pages import Owner
from common.recent import Recent

MAX_REQUESTS = 4096
"""Requests in transfer to one decode instance; handshakes beyond wait to be repeated."""


class Transfer(NamedTuple):
    """One chunk's KV of one member."""

    chunk: int
    rank: int


class Loan(NamedTuple):
    """A grant and the inbox of the sender that it is for."""

    inbox: Endpoint
    grant: Grant


@dataclass
class _Request:
    num_transfers: int
    num_wanted: int
    waiting: dict[Transfer, Endpoint] = field(default_factory=dict)
    lent: dict[Transfer, Grant] = field(default_factory=dict)
    idle: deque[int] = field(default_factory=deque)
    released: set[Transfer] = field(default_factory=set)

    @property
    def reserved(self) -> int:
        return len(self.idle) + len(self.lent)


class ReceiveManager:
    """The backends of one decode instance and the requests that want them.

    Args:
        num_backends: transfers that may be under way at once.
        generation: below every generation that this manager gives; a restarted broker passes
            a larger one, so that receivers take its loans for newer.
    """

    def __init__(self, num_backends: int, generation: int = 0) -> None:
        self.num_backends = num_backends
        self._free = deque(range(num_backends))
        self._generations = [generation] * num_backends
        self._requests: dict[Owner, _Request] = {}  # in order of first handshake
        self._ended: Recent[Owner] = Recent(MAX_REQUESTS)

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

    def handshake(self, message: Handshake) -> list[Loan]:
        """A sender asks; the loans to send now, none while it has to wait.

        A repeated handshake of a transfer that holds a backend gets the same grant again.
        """
        owner = Owner(message.request, message.attempt)
        loans = self._retire_older(owner)
        request = self._requests.get(owner) or self._enter(owner, message)
        if request is None:
            return loans
        transfer = Transfer(message.chunk, message.rank)
        if transfer in request.lent:
            return [*loans, Loan(message.sender.inbox, request.lent[transfer])]
        if transfer in request.released or self._is_full(request, transfer):
            return loans
        request.waiting[transfer] = message.sender.inbox
        return loans + self._reserve() + self._lend(owner, request)

    def release(self, message: Release) -> list[Loan]:
        """A transfer is through; its backend goes to the next one. Idempotent."""
        owner = Owner(message.request, message.attempt)
        transfer = Transfer(message.chunk, message.rank)
        request = self._requests.get(owner)
        if request is None or transfer not in request.lent:
            return []
        request.idle.append(request.lent.pop(transfer).backend)
        request.released.add(transfer)
        if len(request.released) == request.num_transfers:
            return self.end(owner)
        return self._lend(owner, request)

    def end(self, owner: Owner) -> list[Loan]:
        """The request is over at whatever stage; its backends go to the next. Idempotent."""
        self._ended.add(owner)
        request = self._requests.pop(owner, None)
        if request is None:
            return []
        self._free.extend(grant.backend for grant in request.lent.values())
        self._free.extend(request.idle)
        return self._reserve()

    def _enter(self, owner: Owner, message: Handshake) -> _Request | None:
        """Take a new request in; None when it is over or there are too many."""
        if owner in self._ended or len(self._requests) >= MAX_REQUESTS:
            return None
        num_wanted = min(message.num_senders, message.num_transfers, self.num_backends)
        request = _Request(message.num_transfers, num_wanted)
        self._requests[owner] = request
        return request

    def _retire_older(self, owner: Owner) -> list[Loan]:
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

    def _reserve(self) -> list[Loan]:
        """Hand free backends out, to the request with the earliest first handshake first."""
        loans: list[Loan] = []
        for owner, request in self._requests.items():
            if not self._free:
                break
            while self._free and request.reserved < request.num_wanted:
                request.idle.append(self._free.popleft())
            loans += self._lend(owner, request)
        return loans

    def _lend(self, owner: Owner, request: _Request) -> list[Loan]:
        """Give a request's idle backends to its transfers, first come first served."""
        loans: list[Loan] = []
        while request.idle and request.waiting:
            transfer, inbox = next(iter(request.waiting.items()))
            del request.waiting[transfer]
            backend = request.idle.popleft()
            self._generations[backend] += 1
            grant = Grant(*owner, *transfer, backend, self._generations[backend])
            request.lent[transfer] = grant
            loans.append(Loan(inbox, grant))
        return loans
