"""A network inside one process, for simulations: virtual time, faults, a trace to compare.

Nothing here is random but through the generator that is handed in, and time is the running
loop's, so that the same seed under a virtual loop gives the same run.
"""

import asyncio
import hashlib
import random
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextvars import copy_context
from dataclasses import dataclass

from common.wire import Frame

CAPACITY = 4096
"""Messages that an inbox holds, unless told otherwise."""


def _any(frames: Sequence[Frame]) -> bool:
    return True


def _always(source: str, destination: str) -> bool:
    return True


@dataclass(frozen=True)
class Faults:
    """What the network does to each message; by itself it keeps the order of one sender."""

    min_delay: float = 0.0002
    max_delay: float = 0.002
    loss: float = 0.0
    """Probability that a message does not arrive."""
    duplication: float = 0.0
    """Probability that a message arrives twice."""
    reordering: float = 0.0
    """Probability that a message may pass those sent before it, as after a reconnect."""
    may_lose: Callable[[Sequence[Frame]], bool] = _any
    """Whether a message that is to be lost may be."""


class MemoryNetwork:
    """Endpoints that reach one another as long as they are bound and not cut off.

    Args:
        capacity: messages that an inbox holds; what arrives beyond is dropped.
        reaches: whether anything gets from one endpoint to another now; asked when a message
            leaves and again when it arrives.
    """

    def __init__(
        self,
        rng: random.Random,
        faults: Faults | None = None,
        capacity: int = CAPACITY,
        reaches: Callable[[str, str], bool] = _always,
    ) -> None:
        self.faults = faults or Faults()
        """May be replaced at any time."""
        self.num_lost = 0
        self._rng = rng
        self._capacity = capacity
        self._reaches = reaches
        # What is under way is nobody's any more, whoever sent it.
        self._context = copy_context()
        self._inboxes: dict[str, asyncio.Queue[Sequence[Frame]]] = {}
        self._bound: defaultdict[str, asyncio.Event] = defaultdict(asyncio.Event)
        self._arrivals: dict[tuple[str, str], float] = {}
        self._trace = hashlib.sha256()

    @property
    def endpoints(self) -> frozenset[str]:
        """All that are bound."""
        return frozenset(self._inboxes)

    @property
    def trace(self) -> str:
        """Digest of every arrival so far: when, from where, to where, what."""
        return self._trace.hexdigest()

    def bind(self, endpoint: str) -> "MemoryTransport":
        """An inbox at an endpoint that nobody has bound, or whose last owner has closed."""
        if endpoint in self._inboxes:
            raise ValueError(f"{endpoint} is bound already")
        self._inboxes[endpoint] = asyncio.Queue(self._capacity)
        self._bound[endpoint].set()
        return MemoryTransport(self, endpoint)

    def unbind(self, endpoint: str) -> None:
        """Take an endpoint away, with all that its inbox holds, as a crash does."""
        if self._inboxes.pop(endpoint, None) is not None:
            self._bound[endpoint].clear()

    def send(self, source: str, destination: str, frames: Sequence[Frame]) -> bool:
        """Put a message under way; False when nobody has bound its destination."""
        if destination not in self._inboxes:
            return False
        faults = self.faults
        is_lost = self._rng.random() < faults.loss and faults.may_lose(frames)
        if is_lost or not self._reaches(source, destination):
            self.num_lost += 1
            return True
        for _ in range(2 if self._rng.random() < faults.duplication else 1):
            self._launch(source, destination, tuple(map(bytes, frames)))
        return True

    def _launch(self, source: str, destination: str, frames: tuple[bytes, ...]) -> None:
        loop, faults = asyncio.get_running_loop(), self.faults
        when = loop.time() + self._rng.uniform(faults.min_delay, faults.max_delay)
        earlier = self._arrivals.get((source, destination), 0.0)
        if not faults.reordering or self._rng.random() >= faults.reordering:
            # After the message sent earlier, and not with it, for timers that tie have no order.
            when = max(when, earlier + 1e-9)
        self._arrivals[source, destination] = max(when, earlier)
        loop.call_at(when, self._arrive, source, destination, frames, context=self._context)

    async def bound(self, endpoint: str) -> None:
        """Wait until somebody listens at an endpoint."""
        await self._bound[endpoint].wait()

    async def arrival(self, endpoint: str) -> Sequence[Frame]:
        """The next message at a bound endpoint."""
        return await self._inboxes[endpoint].get()

    def _arrive(self, source: str, destination: str, frames: tuple[bytes, ...]) -> None:
        inbox = self._inboxes.get(destination)
        if inbox is None or inbox.full() or not self._reaches(source, destination):
            self.num_lost += 1
            return
        now = asyncio.get_running_loop().time()
        place = (round(now, 9), source, destination, [len(frame) for frame in frames])
        self._trace.update(repr(place).encode())
        for frame in frames:
            self._trace.update(frame)
        inbox.put_nowait(frames)


class MemoryTransport:
    """One endpoint's side of the network; once closed, nothing leaves it any more."""

    def __init__(self, network: MemoryNetwork, endpoint: str) -> None:
        self.endpoint = endpoint
        self.is_closed = False
        self._network = network

    def connect(self, endpoint: str) -> "MemorySender":
        """A way to any endpoint."""
        return MemorySender(self._network, self, endpoint)

    async def receive(self) -> Sequence[Frame]:
        """The next message's frames."""
        return await self._network.arrival(self.endpoint)

    def close(self) -> None:
        """Give the endpoint back; idempotent, for it may be another's by now."""
        if not self.is_closed:
            self.is_closed = True
            self._network.unbind(self.endpoint)


class MemorySender:
    """The way from one endpoint to another."""

    def __init__(self, network: MemoryNetwork, source: MemoryTransport, destination: str) -> None:
        self._network = network
        self._source = source
        self._destination = destination

    def send(self, frames: Sequence[Frame]) -> bool:
        """False while nobody listens."""
        if self._source.is_closed:
            return True
        return self._network.send(self._source.endpoint, self._destination, frames)

    async def writable(self) -> None:
        """Until somebody listens."""
        await self._network.bound(self._destination)

    def close(self) -> None:
        """What is under way still arrives."""
