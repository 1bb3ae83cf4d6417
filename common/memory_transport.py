"""A network inside one process, for simulations: virtual time, faults, a trace to compare.

Nothing here is random but through the generator that is handed in, and time is the running
loop's, so that the same seed under a virtual loop gives the same run.
"""

import asyncio
import hashlib
import random
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from common.wire import Frame

CAPACITY = 4096
"""Messages that an inbox holds; what arrives beyond is dropped."""


def _any(frames: Sequence[Frame]) -> bool:
    return True


@dataclass(frozen=True)
class Faults:
    """What the network does to each message; the order from one endpoint to another stays."""

    min_delay: float = 0.0002
    max_delay: float = 0.002
    loss: float = 0.0
    """Probability that a message does not arrive."""
    duplication: float = 0.0
    """Probability that a message arrives twice."""
    may_lose: Callable[[Sequence[Frame]], bool] = _any
    """Whether a message that is to be lost may be."""


class MemoryNetwork:
    """Endpoints that reach one another as long as they are bound and not cut off."""

    def __init__(self, rng: random.Random, faults: Faults | None = None) -> None:
        self.faults = faults or Faults()
        """May be replaced at any time."""
        self.num_lost = 0
        self._rng = rng
        self._inboxes: dict[str, asyncio.Queue[Sequence[Frame]]] = {}
        self._bound: defaultdict[str, asyncio.Event] = defaultdict(asyncio.Event)
        self._arrivals: dict[tuple[str, str], float] = {}
        self._cuts: set[tuple[str, str]] = set()
        self._trace = hashlib.sha256()

    @property
    def trace(self) -> str:
        """Digest of every arrival so far: when, from where, to where, what."""
        return self._trace.hexdigest()

    def bind(self, endpoint: str) -> "MemoryTransport":
        """An inbox at an endpoint that nobody has bound, or whose last owner has closed."""
        if endpoint in self._inboxes:
            raise ValueError(f"{endpoint} is bound already")
        self._inboxes[endpoint] = asyncio.Queue(CAPACITY)
        self._bound[endpoint].set()
        return MemoryTransport(self, endpoint)

    def unbind(self, endpoint: str) -> None:
        """Take an endpoint away, with all that its inbox holds, as a crash does."""
        if self._inboxes.pop(endpoint, None) is not None:
            self._bound[endpoint].clear()

    def cut(self, source: str, destination: str) -> None:
        """Lose everything from one endpoint to another, one way, from now on."""
        self._cuts.add((source, destination))

    def heal(self, source: str, destination: str) -> None:
        """Undo a cut."""
        self._cuts.discard((source, destination))

    def send(self, source: str, destination: str, frames: Sequence[Frame]) -> bool:
        """Put a message under way; False when nobody has bound its destination."""
        if destination not in self._inboxes:
            return False
        faults = self.faults
        is_lost = self._rng.random() < faults.loss and faults.may_lose(frames)
        if is_lost or (source, destination) in self._cuts:
            self.num_lost += 1
            return True
        loop = asyncio.get_running_loop()
        for _ in range(2 if self._rng.random() < faults.duplication else 1):
            delay = self._rng.uniform(faults.min_delay, faults.max_delay)
            # After the message sent earlier, and not with it, for timers that tie have no order.
            earlier = self._arrivals.get((source, destination), 0.0)
            when = max(loop.time() + delay, earlier + 1e-9)
            self._arrivals[source, destination] = when
            loop.call_at(when, self._arrive, source, destination, tuple(map(bytes, frames)))
        return True

    async def bound(self, endpoint: str) -> None:
        """Wait until somebody listens at an endpoint."""
        await self._bound[endpoint].wait()

    async def arrival(self, endpoint: str) -> Sequence[Frame]:
        """The next message at a bound endpoint."""
        return await self._inboxes[endpoint].get()

    def _arrive(self, source: str, destination: str, frames: tuple[bytes, ...]) -> None:
        inbox = self._inboxes.get(destination)
        if inbox is None or inbox.full():
            self.num_lost += 1
            return
        now = asyncio.get_running_loop().time()
        place = (round(now, 9), source, destination, [len(frame) for frame in frames])
        self._trace.update(repr(place).encode())
        for frame in frames:
            self._trace.update(frame)
        inbox.put_nowait(frames)


class MemoryTransport:
    """One endpoint's side of the network."""

    def __init__(self, network: MemoryNetwork, endpoint: str) -> None:
        self.endpoint = endpoint
        self._network = network

    def connect(self, endpoint: str) -> "MemorySender":
        """A way to any endpoint."""
        return MemorySender(self._network, self.endpoint, endpoint)

    async def receive(self) -> Sequence[Frame]:
        """The next message's frames."""
        return await self._network.arrival(self.endpoint)

    def close(self) -> None:
        """Give the endpoint back."""
        self._network.unbind(self.endpoint)


class MemorySender:
    """The way from one endpoint to another."""

    def __init__(self, network: MemoryNetwork, source: str, destination: str) -> None:
        self._network = network
        self._source = source
        self._destination = destination

    def send(self, frames: Sequence[Frame]) -> bool:
        """False while nobody listens."""
        return self._network.send(self._source, self._destination, frames)

    async def writable(self) -> None:
        """Until somebody listens."""
        await self._network.bound(self._destination)

    def close(self) -> None:
        """What is under way still arrives."""
