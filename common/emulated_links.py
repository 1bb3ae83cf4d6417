"""Bulk links without bytes, inside one process: messages that take as long as their KV would.

Emulated workers send each other the link messages of real ones, headers alone. Each source is one
wire of a fixed bandwidth that carries its messages one after the other; a destination that nobody
has bound loses them. Everything is one event loop's, so it goes no further than one process.
"""

import asyncio
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import Context, copy_context

from common.messages import Endpoint, LinkMessage

_TICK = 1e-9
"""Seconds between two messages of one source, at least: timers that tie have no order."""


Receive = Callable[[LinkMessage], None]
Fate = Callable[[Endpoint, Endpoint, LinkMessage], Sequence[float]]
"""Seconds of delay for each copy of a message that arrives: none when it gets lost."""


def _once(source: Endpoint, destination: Endpoint, message: LinkMessage) -> Sequence[float]:
    return (0.0,)


class EmulatedLinks:
    """All links of a process.

    Args:
        bandwidth: bytes per second of every source.
        latency: seconds on the way, after the last byte has left.
        fate: asked once for each message, when its last byte has left.
    """

    def __init__(self, bandwidth: float, latency: float = 1e-5, fate: Fate = _once) -> None:
        self.num_lost = 0
        self._bandwidth = bandwidth
        self._latency = latency
        self._fate = fate
        self._bound: dict[Endpoint, tuple[Receive, Context]] = {}
        self._free_at: defaultdict[Endpoint, float] = defaultdict(float)
        self._leaving: defaultdict[Endpoint, deque[tuple[Endpoint, LinkMessage]]]
        self._leaving = defaultdict(deque)
        # What has left its source is nobody's any more.
        self._context = copy_context()

    @property
    def endpoints(self) -> frozenset[Endpoint]:
        """All that are bound."""
        return frozenset(self._bound)

    @contextmanager
    def bound(self, endpoint: Endpoint, receive: Receive) -> Iterator[Endpoint]:
        """Hand what comes to an endpoint to `receive`, as long as the context lasts."""
        if endpoint in self._bound:
            raise ValueError(f"{endpoint} is bound already")
        self._bound[endpoint] = receive, copy_context()
        try:
            yield endpoint
        finally:
            del self._bound[endpoint]
            self._free_at.pop(endpoint, None)

    def send(
        self, source: Endpoint, destination: Endpoint, message: LinkMessage, num_bytes: int = 0
    ) -> None:
        """Put a message and the time of `num_bytes` under way; never blocks."""
        loop = asyncio.get_running_loop()
        begin = max(loop.time(), self._free_at[source])
        self._free_at[source] = begin + max(num_bytes / self._bandwidth, _TICK)
        self._leaving[source].append((destination, message))
        loop.call_at(self._free_at[source], self._leave, source)

    def _leave(self, source: Endpoint) -> None:
        # The next one in order: timers of a loop that counts in milliseconds may change places.
        destination, message = self._leaving[source].popleft()
        if not self._leaving[source]:
            del self._leaving[source]
        delays = self._fate(source, destination, message)
        if not delays:
            self.num_lost += 1
        loop = asyncio.get_running_loop()
        for delay in delays:
            when = loop.time() + self._latency + delay
            loop.call_at(when, self._arrive, destination, message, context=self._context)

    def _arrive(self, destination: Endpoint, message: LinkMessage) -> None:
        if destination not in self._bound:
            self.num_lost += 1
            return
        receive, context = self._bound[destination]
        # As the receiver's own work, which stands still when its owner does.
        asyncio.get_running_loop().call_soon(receive, message, context=context)
