"""What happened in a simulated mesh: every message, when it was sent and when it was taken.

The taps sit where a service hands a message over and where it gets one, so that the order of one
place's events is the order in which its service saw them.
"""

import asyncio
import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import msgspec

from common.emulated_links import EmulatedLinks
from common.mesh import Mesh
from common.messages import ControlMessage, Endpoint, LinkMessage
from common.wire import Frame, Frames
from tests.simulation.virtual_loop import current_life


class Asked(msgspec.Struct, frozen=True):
    """A client has sent a request, and these are the tokens of the right answer."""

    request: str
    expected: tuple[int, ...]


class Given(msgspec.Struct, frozen=True):
    """A client has got a token."""

    request: str
    index: int
    id: int


class Over(msgspec.Struct, frozen=True):
    """A client has got all that it will ever get: the whole answer, a refusal, or it has left."""

    request: str
    outcome: str


ANSWERED, LEFT, CUT_OFF = "answered", "left", "cut off"
CLIENT = "client"
"""The place of what clients see."""


@dataclass(frozen=True, slots=True)
class Event:
    """One message at one place: `where` is the endpoint of whoever sent or took it."""

    time: float
    where: str
    way: Literal["sent", "took"]
    message: ControlMessage | LinkMessage | Asked | Given | Over
    to: str = ""
    """Destination of what was sent."""


class History:
    """All events in their order, a digest of them, and who is told of each one at once."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.listeners: list[Callable[[Event], None]] = []
        self._digest = hashlib.sha256()

    @property
    def trace(self) -> str:
        """Digest of all events so far."""
        return self._digest.hexdigest()

    def note(self, where: str, way: Literal["sent", "took"], message: object, to: str = "") -> None:
        """Record an event of now."""
        time = asyncio.get_running_loop().time()
        event = Event(time, where, way, message, to)  # type: ignore[arg-type]
        self.events.append(event)
        self._digest.update(f"{time:.9f} {where} {way} {to} {type(message).__name__}".encode())
        self._digest.update(msgspec.msgpack.encode(message))
        for listener in self.listeners:
            listener(event)


class TappedMesh(Mesh):
    """A mesh that tells the history; of a dead life nothing goes out."""

    history: History

    def kill(self) -> None:
        """Give the inbox back at once and send nothing more."""
        self._transport.close()

    def send(self, endpoint: str, message: ControlMessage, *frames: Frame) -> None:
        """Send, and note what the service said."""
        life = current_life()
        if life is None or not life.is_dead:
            self.history.note(self.inbox, "sent", message, endpoint)
            super().send(endpoint, message, *frames)

    async def receive(self) -> tuple[ControlMessage, Frames]:
        """Receive, and note what the service is told now."""
        received = await super().receive()
        self.history.note(self.inbox, "took", received[0])
        return received


class TappedLinks(EmulatedLinks):
    """Links that tell the history; of a dead life nothing goes out."""

    history: History

    @contextmanager
    def bound(
        self, endpoint: Endpoint, receive: Callable[[LinkMessage], None]
    ) -> Iterator[Endpoint]:
        """Bind, and note what is taken."""

        def take(message: LinkMessage) -> None:
            self.history.note(endpoint, "took", message)
            receive(message)

        with super().bound(endpoint, take) as place:
            yield place

    def send(
        self, source: Endpoint, destination: Endpoint, message: LinkMessage, num_bytes: int = 0
    ) -> None:
        """Send, and note it."""
        life = current_life()
        if life is None or not life.is_dead:
            self.history.note(source, "sent", message, destination)
            super().send(source, destination, message, num_bytes)
