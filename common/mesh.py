"""All control messages of a process: one inbox, one outbox per peer, no blocking send.

Delivery is at most once and in order per peer. A single reader, never cancelled while the mesh
runs, feeds a bounded queue; each peer has a bounded outbox and a writer of its own, so that a
dead peer delays nobody. What cannot be delivered is dropped and counted.
"""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Protocol

from common.clock import Clock
from common.config import MeshConfig
from common.errors import WireError
from common.messages import ControlMessage
from common.metrics import Metrics
from common.wire import CONTROL, Frame
from common.wire import Frames as Frames

MAX_PEERS = 512
"""Peers with an open socket; more means that somebody makes them up."""
IDLE = 60.0
"""Seconds after which a peer that nothing was sent to is forgotten."""
MAX_AGE = 30.0
"""Seconds after which a message that its peer could not take is worth nothing any more."""


class Sender(Protocol):
    """The way to one peer."""

    def send(self, frames: Sequence[Frame]) -> bool:
        """Hand one message over without waiting; False when the peer cannot take it now."""

    async def writable(self) -> None:
        """Wait until `send` is worth another try."""

    def close(self) -> None:
        """Let go of the peer."""


class Transport(Protocol):
    """What carries frames: ZeroMQ between processes, memory inside a simulation."""

    @property
    def endpoint(self) -> str:
        """Where peers reach this inbox."""

    def connect(self, endpoint: str) -> Sender:
        """A way to a peer that need not be there yet; `WireError` if it can never be."""

    async def receive(self) -> Sequence[Frame]:
        """The next message's frames; cancelling it loses nothing."""

    def close(self) -> None:
        """Close the inbox and all that `connect` gave out."""


@dataclass
class _Peer:
    sender: Sender
    outbox: asyncio.Queue[tuple[float, str, list[Frame]]]
    used: float
    writer: asyncio.Task[None] | None = field(default=None)


class Mesh:
    """Sends and receives the control messages of one process."""

    def __init__(
        self, transport: Transport, config: MeshConfig, metrics: Metrics, clock: Clock
    ) -> None:
        self._transport = transport
        self._outbox_size = config.outbox
        self._metrics = metrics
        self._clock = clock
        self._peers: dict[str, _Peer] = {}
        self._inbox: asyncio.Queue[tuple[ControlMessage, Frames]] = asyncio.Queue(config.inbox)
        self._group: asyncio.TaskGroup | None = None

    @property
    def inbox(self) -> str:
        """Endpoint that peers push to."""
        return self._transport.endpoint

    @property
    def num_peers(self) -> int:
        """Peers that are not forgotten yet."""
        return len(self._peers)

    def send(self, endpoint: str, message: ControlMessage, *frames: Frame) -> None:
        """Queue a message for a peer; never blocks, and keeps the order per peer.

        Raises:
            WireError: the message itself is not one that a peer would take, a bug of the caller.
        """
        encoded = CONTROL.encode(message, frames)
        try:
            peer = self._peers.get(endpoint) or self._open(endpoint)
            peer.used = self._clock.now()
            peer.outbox.put_nowait((peer.used, type(message).__name__, encoded))
        except WireError as error:
            self._drop(error.reason)
        except asyncio.QueueFull:
            self._drop("outbox")

    async def receive(self) -> tuple[ControlMessage, Frames]:
        """The next valid message with its raw frames."""
        return await self._inbox.get()

    def forget(self, endpoint: str) -> None:
        """Close the way to a peer and drop what it has not taken; a later send opens a new one."""
        peer = self._peers.pop(endpoint, None)
        if peer is None:
            return
        if peer.writer is not None:
            peer.writer.cancel()
        if not peer.outbox.empty():
            self._drop("forgotten", peer.outbox.qsize())
        peer.sender.close()

    async def run(self) -> None:
        """Read, write and sweep until cancelled; run it once, as a task of the service."""
        try:
            async with asyncio.TaskGroup() as self._group:
                for peer in self._peers.values():
                    peer.writer = self._group.create_task(self._write(peer))
                self._group.create_task(self._read())
                self._group.create_task(self._sweep())
        finally:
            self._group = None

    async def close(self) -> None:
        """Hand over what peers take at once, then close every socket."""
        for peer in self._peers.values():
            with suppress(asyncio.QueueEmpty):
                while peer.sender.send(peer.outbox.get_nowait()[2]):
                    pass
        for endpoint in tuple(self._peers):
            self.forget(endpoint)
        self._transport.close()

    def _open(self, endpoint: str) -> _Peer:
        if len(self._peers) >= MAX_PEERS:
            raise WireError("peers", "too many peers")
        sender = self._transport.connect(endpoint)
        peer = _Peer(sender, asyncio.Queue(self._outbox_size), self._clock.now())
        self._peers[endpoint] = peer
        if self._group is not None:
            peer.writer = self._group.create_task(self._write(peer))
        return peer

    async def _write(self, peer: _Peer) -> None:
        while True:
            born, kind, frames = await peer.outbox.get()
            if await self._deliver(peer.sender, born, frames):
                self._metrics.sent.labels(kind).inc()
            else:
                self._drop("stale")
            # A send that does not wait does not yield either.
            await asyncio.sleep(0)

    async def _deliver(self, sender: Sender, born: float, frames: list[Frame]) -> bool:
        while self._clock.now() - born <= MAX_AGE:
            if sender.send(frames):
                return True
            await sender.writable()
        return False

    async def _read(self) -> None:
        while True:
            frames = await self._transport.receive()
            try:
                received = CONTROL.decode(frames)
            except WireError as error:
                self._drop(error.reason)
            else:
                self._metrics.received.labels(type(received[0]).__name__).inc()
                await self._inbox.put(received)
            # A receive that finds a message does not yield either.
            await asyncio.sleep(0)

    async def _sweep(self) -> None:
        while True:
            await self._clock.sleep(IDLE / 4)
            oldest = self._clock.now() - IDLE
            for endpoint in [e for e, peer in self._peers.items() if peer.used < oldest]:
                self.forget(endpoint)

    def _drop(self, reason: str, count: int = 1) -> None:
        self._metrics.dropped.labels(reason).inc(count)
