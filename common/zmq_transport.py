"""Control messages over ZeroMQ, PUSH → PULL.

The sockets are plain ones, tried without blocking; only when one is not ready is its descriptor
watched. So a cancelled wait holds no message, which a cancelled asynchronous receive would lose.
"""

import asyncio
import socket
from collections.abc import Sequence
from urllib.parse import urlsplit

import zmq

from common.errors import ConfigError, WireError
from common.wire import Frame

_OPTIONS = {
    zmq.LINGER: 200,
    zmq.SNDHWM: 1000,
    zmq.RCVHWM: 1000,
    zmq.HANDSHAKE_IVL: 3000,
    zmq.HEARTBEAT_IVL: 500,
    zmq.HEARTBEAT_TIMEOUT: 1500,
    zmq.HEARTBEAT_TTL: 2000,
    zmq.RECONNECT_IVL: 100,
    zmq.RECONNECT_IVL_MAX: 1000,
    zmq.TCP_MAXRT: 5000,
    zmq.BACKLOG: 128,
}
"""Times in milliseconds."""


class ZmqTransport:
    """One PULL socket for all peers, one PUSH socket for each."""

    def __init__(
        self,
        bind: str,
        max_frame: int,
        address: str | None = None,
        context: zmq.Context[zmq.Socket[bytes]] | None = None,
    ) -> None:
        """Bind the inbox.

        Args:
            bind: an endpoint; `tcp://address:*` takes any port.
            max_frame: bytes; a peer that sends a larger frame is disconnected.
            address: endpoint under which peers reach it, where that is not the bound one; a
                port `*` stands for the bound port.
            context: whose threads do the work, closed by its owner; one of its own if absent.

        Raises:
            ConfigError: the endpoint cannot be bound.
        """
        self._max_frame = max_frame
        self._is_shared = context is not None
        self._context = context or zmq.Context()
        self._inbox = self._socket(zmq.PULL)
        try:
            self._inbox.bind(_bindable(bind))
        except (zmq.ZMQError, OSError) as error:
            self._inbox.close(linger=0)
            self._end(linger=0)
            raise ConfigError(f"cannot bind {bind}: {error}") from None
        bound = self._inbox.get_string(zmq.LAST_ENDPOINT)
        self.endpoint = (address or bound).replace(":*", f":{bound.rpartition(':')[2]}")

    def connect(self, endpoint: str) -> "ZmqSender":
        """A PUSH socket of its own for a peer; `WireError` for what is no endpoint."""
        if not endpoint.startswith(("tcp://", "ipc://")):
            raise WireError("endpoint", "neither tcp nor ipc")
        push = self._socket(zmq.PUSH)
        # Only a peer that is there takes messages: what waits, waits in the bounded outbox.
        push.set(zmq.IMMEDIATE, 1)
        try:
            push.connect(endpoint)
        except zmq.ZMQError as error:
            push.close(linger=0)
            raise WireError("endpoint", str(error)) from None
        return ZmqSender(push)

    async def receive(self) -> Sequence[Frame]:
        """The next message's frames."""
        while True:
            try:
                return self._inbox.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                await _ready(self._inbox, zmq.POLLIN)

    def close(self) -> None:
        """Close all sockets; waits at most the linger time for what they still hold."""
        self._inbox.close()
        self._end()

    def _end(self, linger: int | None = None) -> None:
        if not self._is_shared:
            self._context.destroy(linger)

    def _socket(self, kind: int) -> zmq.Socket[bytes]:
        made = self._context.socket(kind)
        made.set(zmq.MAXMSGSIZE, self._max_frame)
        for option, value in _OPTIONS.items():
            made.set(option, value)
        return made


class ZmqSender:
    """The PUSH socket of one peer."""

    def __init__(self, push: zmq.Socket[bytes]) -> None:
        self._push = push

    def send(self, frames: Sequence[Frame]) -> bool:
        """False while the peer is not connected or its queue is full."""
        try:
            self._push.send_multipart(frames, zmq.NOBLOCK)
        except zmq.Again:
            return False
        return True

    async def writable(self) -> None:
        """Until the peer is connected and has room."""
        await _ready(self._push, zmq.POLLOUT)

    def close(self) -> None:
        """Close the socket; what it holds still goes out within the linger time."""
        # Before the descriptor's number can be another socket's.
        asyncio.get_running_loop().remove_reader(self._push.fileno())
        self._push.close()


async def _ready(waiting: zmq.Socket[bytes], events: int) -> None:
    # The descriptor tells that something changed, only EVENTS what; reading EVENTS re-arms it.
    loop = asyncio.get_running_loop()
    descriptor = waiting.fileno()
    while not int(waiting.get(zmq.EVENTS)) & events:
        changed = asyncio.Event()
        loop.add_reader(descriptor, changed.set)
        try:
            await changed.wait()
        finally:
            if not waiting.closed:
                loop.remove_reader(descriptor)


def _bindable(endpoint: str) -> str:
    # ZeroMQ binds addresses only; a host name is looked up here.
    if not endpoint.startswith("tcp://") or endpoint.endswith(":*"):
        return endpoint
    parts = urlsplit(endpoint)
    return f"tcp://{socket.gethostbyname(parts.hostname or '')}:{parts.port}"
