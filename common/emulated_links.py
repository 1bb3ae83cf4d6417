"""Bulk links without bytes, inside one process: messages that take as long as their KV would.

Emulated workers send each other the link messages of real ones, headers alone. Each source is one
wire of a fixed bandwidth that carries its messages one after the other; a destination that nobody
has bound loses them. Everything is one event loop's, so it goes no further than one process.
"""

import asyncio
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from common.messages import Endpoint, LinkMessage

_TICK = 1e-9
"""Seconds between two messages of one source, at least: timers that tie have no order."""


def _never(message: LinkMessage) -> bool:
    return False


class EmulatedLinks:
    """All links of a process.

    Args:
        bandwidth: bytes per second of every source.
        latency: seconds on the way, after the last byte has left.
        loses: whether a message gets lost; asked once for each.
    """

    def __init__(
        self,
        bandwidth: float,
        latency: float = 1e-5,
        loses: Callable[[LinkMessage], bool] = _never,
    ) -> None:
        self.num_lost = 0
        self._bandwidth = bandwidth
        self._latency = latency
        self._loses = loses
        self._bound: dict[Endpoint, Callable[[LinkMessage], None]] = {}
        self._free_at: defaultdict[Endpoint, float] = defaultdict(float)

    @contextmanager
    def bound(
        self, endpoint: Endpoint, receive: Callable[[LinkMessage], None]
    ) -> Iterator[Endpoint]:
        """Hand what comes to an endpoint to `receive`, as long as the context lasts."""
        if endpoint in self._bound:
            raise ValueError(f"{endpoint} is bound already")
        self._bound[endpoint] = receive
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
        loop.call_at(self._free_at[source] + self._latency, self._arrive, destination, message)

    def _arrive(self, destination: Endpoint, message: LinkMessage) -> None:
        receive = self._bound.get(destination)
        if receive is None or self._loses(message):
            self.num_lost += 1
        else:
            receive(message)
