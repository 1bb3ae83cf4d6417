"""Bulk bytes between workers over ZeroMQ: one PULL socket, one PUSH socket per peer.

A link is created, used and closed in one thread. Every wait is bounded. Frames are sent without
a copy, so whoever sends one never writes to it again; frames are received without a copy, and a
view keeps its frame alive.
"""

import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import zmq

from common.errors import LinkTimeout, WireError
from common.messages import LinkMessage
from common.wire import LINK, Frame

SLICE = 0.1
"""Seconds of one uninterrupted wait."""
HIGH_WATER = 8
"""Messages queued per peer and direction; ZeroMQ counts messages, each up to a layer's KV."""
MAX_FRAME = 1 << 30
"""Bytes of one frame: a layer's keys of the largest pool."""
MAX_PEERS = 256
"""Open PUSH sockets; the one unused for longest is closed."""
IDLE = 60.0
"""Seconds without use after which a PUSH socket is closed once another one opens.

Workers that were started again have new endpoints; the old ones would be knocked at for ever.
"""
LINGER_MS = 1000
"""Milliseconds that a closed socket still tries to deliver."""


def _nothing() -> None:
    pass


class ZmqLink:
    """Sends link messages with raw buffers to peers, and receives theirs in one inbox."""

    def __init__(self, bind: str, send_timeout: float = 60.0) -> None:
        self.malformed = 0
        """Messages dropped because they could not be decoded."""
        self._send_timeout = send_timeout
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context.instance()
        self._pushes: OrderedDict[str, zmq.Socket[bytes]] = OrderedDict()
        self._used: dict[str, float] = {}
        self._pull = self._open(zmq.PULL)
        self._pull.setsockopt(zmq.MAXMSGSIZE, MAX_FRAME)
        self._pull.bind(bind)
        self.endpoint: str = self._pull.getsockopt_string(zmq.LAST_ENDPOINT)

    def try_send(self, endpoint: str, message: LinkMessage, *buffers: Frame) -> bool:
        """Post a message unless the peer's queue is full; whether it was posted."""
        try:
            self._push(endpoint).send_multipart(
                LINK.encode(message, buffers), flags=zmq.NOBLOCK, copy=False
            )
        except zmq.Again:
            return False
        return True

    def send(
        self,
        endpoint: str,
        message: LinkMessage,
        *buffers: Frame,
        timeout: float | None = None,
        meanwhile: Callable[[], None] = _nothing,
    ) -> None:
        """Post a message, waiting for room in the peer's queue.

        The wait takes at most `timeout` seconds, the link's own bound when None; `meanwhile` is
        called before every slice of it, and what that raises ends it.

        Raises:
            LinkTimeout: the peer took nothing within the bound.
        """
        bound = self._send_timeout if timeout is None else timeout
        deadline = time.monotonic() + bound
        while not self.try_send(endpoint, message, *buffers):
            meanwhile()
            left = deadline - time.monotonic()
            if left <= 0:
                raise LinkTimeout(f"{endpoint} took nothing for {bound:g} s")
            self._push(endpoint).poll(int(1000 * min(left, SLICE)) + 1, zmq.POLLOUT)

    def receive(self, timeout: float) -> tuple[LinkMessage, list[memoryview]] | None:
        """The next message within `timeout` seconds, or None; malformed ones are dropped."""
        deadline = time.monotonic() + timeout
        while True:
            with suppress(zmq.Again):
                return self._next()
            left = deadline - time.monotonic()
            if left <= 0:
                return None
            self._pull.poll(int(1000 * min(left, SLICE)) + 1)

    def close(self) -> None:
        """Close all sockets and remove the socket file."""
        for socket in (self._pull, *self._pushes.values()):
            socket.close()
        self._pushes.clear()
        if self.endpoint.startswith("ipc://"):
            Path(self.endpoint.removeprefix("ipc://")).unlink(missing_ok=True)

    def _next(self) -> tuple[LinkMessage, list[memoryview]]:
        """The next well-formed message that has already arrived."""
        while True:
            parts: Sequence[zmq.Frame] = self._pull.recv_multipart(zmq.NOBLOCK, copy=False)
            try:
                message, frames = LINK.decode([part.buffer for part in parts])
            except WireError:
                self.malformed += 1
                continue
            return message, [memoryview(frame) for frame in frames]

    def _push(self, endpoint: str) -> "zmq.Socket[bytes]":
        socket = self._pushes.get(endpoint)
        if socket is None:
            socket = self._connect(endpoint)
            self._sweep()
        self._pushes.move_to_end(endpoint)
        self._used[endpoint] = time.monotonic()
        return socket

    def _sweep(self) -> None:
        """Close what is too many or was not used for long; the order is that of the last use."""
        oldest = time.monotonic() - IDLE
        while len(self._pushes) > 1:
            endpoint = next(iter(self._pushes))
            if len(self._pushes) <= MAX_PEERS and self._used[endpoint] >= oldest:
                break
            self._pushes.pop(endpoint).close()
            del self._used[endpoint]

    def _connect(self, endpoint: str) -> "zmq.Socket[bytes]":
        socket = self._open(zmq.PUSH)
        try:
            socket.connect(endpoint)
        except zmq.ZMQError as error:
            socket.close()
            raise LinkTimeout(f"{endpoint} cannot be reached: {error}") from error
        self._pushes[endpoint] = socket
        return socket

    def _open(self, kind: int) -> "zmq.Socket[bytes]":
        socket: zmq.Socket[bytes] = self._context.socket(kind)
        socket.setsockopt(zmq.LINGER, LINGER_MS)
        socket.setsockopt(zmq.SNDHWM, HIGH_WATER)
        socket.setsockopt(zmq.RCVHWM, HIGH_WATER)
        return socket
