"""Connections of one door: how many, from where, and how long each may take; not HTTP itself.

aiohttp limits neither the time of a request's head nor that of a write. Each connection is one
protocol around aiohttp's: it counts bytes and seconds, and passes everything on.
"""

import asyncio
import resource
import socket
from collections import Counter
from collections.abc import Callable
from typing import cast

from aiohttp import web
from aiohttp.typedefs import Handler
from msgspec import Struct

from gateway.errors import Refusal

WRITE = 30.0
"""Seconds for a client to take what is written, and for its machine to acknowledge it."""
MAX_UNCLAIMED = 16 << 20
"""Bytes that are read although no request wants them: a client with a body that is a bit too
large has it sent before it reads the refusal. What comes beyond is left in the socket."""


class Limits(Struct, frozen=True):
    """What a door bears."""

    connections: int
    per_host: int
    head: float
    """Seconds from a connection, or a later request's first byte, to the end of the head."""


class Places:
    """How many connections there are, and from which hosts."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._taken: Counter[str] = Counter()
        self._total = 0

    def take(self, host: str) -> bool:
        """Whether there is a place for one more of this host; it is taken then."""
        if self._total >= self._limits.connections or self._taken[host] >= self._limits.per_host:
            # Reading a missing entry of a Counter leaves nothing behind.
            return False
        self._total += 1
        self._taken[host] += 1
        return True

    def leave(self, host: str) -> None:
        """Give a place back."""
        self._total -= 1
        self._taken[host] -= 1
        if not self._taken[host]:
            del self._taken[host]


class Connection(asyncio.Protocol):
    """One client, from its coming to its going; HTTP is spoken by the inner protocol.

    It waits for a head, or is busy with a request, or idle between two.

    Args:
        make: the inner protocol, for who gets a place.
        refuse: a whole answer.
    """

    def __init__(
        self,
        make: Callable[[], asyncio.Protocol],
        places: Places,
        limits: Limits,
        refuse: Callable[[Refusal], bytes],
    ) -> None:
        self._make = make
        self._inner: asyncio.Protocol | None = None
        """There with its place."""
        self._places = places
        self._limits = limits
        self._refuse = refuse
        self._transport: asyncio.Transport | None = None
        self._host = ""
        self._is_busy = False
        self._unclaimed = 0
        self._head: asyncio.TimerHandle | None = None
        self._write: asyncio.TimerHandle | None = None

    # From the application

    def begin(self) -> None:
        """A request's head is complete."""
        self._is_busy = True
        self._stop_waiting_for_head()

    def end(self) -> None:
        """Its answer is made; the next request may come."""
        self._is_busy = False
        self._unclaimed = 0

    # From the transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take a place and wait for the first head, or say that there is none."""
        self._transport = cast(asyncio.Transport, transport)
        self._host = str((transport.get_extra_info("peername") or ("",))[0])
        if not self._places.take(self._host):
            self._turn_away(Refusal(503, "Too many connections.", retry_after=1.0))
            return
        _give_up_on_dead_peers(transport)
        self._head = _after(self._limits.head, self._late)
        self._inner = self._make()
        self._inner.connection_made(transport)

    def data_received(self, data: bytes) -> None:
        """Pass bytes on, unless nobody wants so many."""
        if self._inner is not None and (self._is_busy or self._is_wanted(len(data))):
            self._inner.data_received(data)

    def eof_received(self) -> bool | None:
        """The client sends no more."""
        return None if self._inner is None else self._inner.eof_received()

    def pause_writing(self) -> None:
        """The client does not take what is written."""
        if self._inner is not None:
            self._inner.pause_writing()
        self._write = _after(WRITE, self._abort)

    def resume_writing(self) -> None:
        """It does again."""
        self._stop_waiting_for_reader()
        if self._inner is not None:
            self._inner.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        """Give the place back."""
        self._stop_waiting_for_head()
        self._stop_waiting_for_reader()
        if self._inner is not None:
            self._places.leave(self._host)
            self._inner.connection_lost(exc)

    def _is_wanted(self, size: int) -> bool:
        self._unclaimed += size
        if self._head is None:
            self._head = _after(self._limits.head, self._late)
        if self._unclaimed <= MAX_UNCLAIMED:
            return True
        assert self._transport is not None, "bytes come through it"
        if self._transport.is_reading() and not self._transport.is_closing():
            # The answer is on its way; aiohttp closes when no more comes.
            self._transport.pause_reading()
        return False

    def _late(self) -> None:
        if self._unclaimed:
            self._turn_away(Refusal(408, "The head of the request did not arrive in time."))
        elif self._transport is not None:
            self._transport.close()

    def _turn_away(self, refusal: Refusal) -> None:
        assert self._transport is not None, "a client is there"
        self._transport.write(self._refuse(refusal))
        self._transport.close()

    def _abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def _stop_waiting_for_head(self) -> None:
        if self._head is not None:
            self._head.cancel()
            self._head = None

    def _stop_waiting_for_reader(self) -> None:
        if self._write is not None:
            self._write.cancel()
            self._write = None


@web.middleware
async def claim(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Tell the connection when its request begins and ends; the outermost middleware."""
    protocol = None if request.transport is None else request.transport.get_protocol()
    if not isinstance(protocol, Connection):
        return await handler(request)
    protocol.begin()
    try:
        return await handler(request)
    finally:
        protocol.end()


def make_room(connections: int) -> None:
    """Have the system give this process enough descriptors for `connections`, if it will."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = connections + 1024
    if hard != resource.RLIM_INFINITY:
        wanted = min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _after(seconds: float, act: Callable[[], None]) -> asyncio.TimerHandle:
    return asyncio.get_running_loop().call_later(seconds, act)


def _give_up_on_dead_peers(transport: asyncio.BaseTransport) -> None:
    connection = transport.get_extra_info("socket")
    if connection is not None and hasattr(socket, "TCP_USER_TIMEOUT"):
        bound_ms = round(WRITE * 1000)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, bound_ms)
