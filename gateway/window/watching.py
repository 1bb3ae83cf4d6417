"""The board's stream: what has happened in the last seconds, and then what happens.

A watcher has a position in the history and nothing else. One that reads too slowly is told how
much it has missed and goes on with the newest.
"""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

import msgspec
from aiohttp import web

from common.events import Happening
from gateway.doors.writing import write
from gateway.errors import Refusal
from gateway.mesh.queries import number
from gateway.window.window import Window

MAX_WATCHERS = 16
REPLAY, MAX_REPLAY = 60.0, 600.0
"""Seconds of history that a watcher gets first."""
PAUSE = 0.1
"""Seconds between two messages of what happens."""
CLOCK = 1.0
"""Seconds between two tellings of the time, which keep the connection open as well."""
MAX_BEHIND = 5000
"""Events that a watcher may be behind before it skips them."""
_HEADERS = {
    "Content-Type": "text/event-stream; charset=utf-8",
    "Cache-Control": "no-cache",
    "X-Accel-Buffering": "no",
}
_ENCODER = msgspec.json.Encoder()


class Clock(msgspec.Struct, frozen=True):
    """What the page has to know of this gateway."""

    wall: float
    model: str
    version: str


class Place:
    """Where one watcher is in the history; time and what is written are its caller's."""

    def __init__(self, window: Window, seconds: float) -> None:
        self._history = window.history
        self._live = self._history.end
        now = window.clock.now()
        self._position = self._history.since(now - seconds) if seconds else self._live

    @property
    def is_live(self) -> bool:
        """Whether all that had happened before it came has been told."""
        return self._position >= self._live

    def next(self) -> bytes:
        """The next message, with the hole before it; empty when there is nothing new."""
        lost = 0
        if self.is_live and self._history.end - self._position > MAX_BEHIND:
            lost = self._history.end - self._position
            self._position = self._history.end
        read = self._history.read(self._position)
        self._position = read.next
        data = _hole(lost + read.lost) if lost + read.lost else b""
        return data + (_happenings(read.epoch, read.last, read.events) if read.events else b"")


class Watching:
    """All watchers of this gateway."""

    def __init__(self, window: Window, model: str, version: str) -> None:
        self._window = window
        self._model = model
        self._version = version
        self._watchers = 0
        self._is_closing = False

    async def events(self, http: web.Request) -> web.StreamResponse:
        """`GET /tetris/events`: 503 when there are too many watchers."""
        seconds = number(http, "seconds", REPLAY, 0.0, MAX_REPLAY)
        with self._watcher():
            response = web.StreamResponse(headers=_HEADERS)
            await response.prepare(http)
            await self._tell(http, response, Place(self._window, seconds))
        return response

    async def close(self, _: web.Application) -> None:
        """Have all watchers leave: the gateway ends."""
        self._is_closing = True

    async def _tell(self, http: web.Request, response: web.StreamResponse, place: Place) -> None:
        due = 0.0
        while not self._is_closing:
            now = self._window.clock.now()
            data = b""
            if now >= due:
                data, due = self._clock(), now + CLOCK
            data += place.next()
            if data:
                await write(http, response, data)
            # A write seldom gives way by itself, and a replay is not to hold up the others.
            await asyncio.sleep(PAUSE if place.is_live else 0)

    def _clock(self) -> bytes:
        clock = Clock(self._window.clock.wall(), self._model, self._version)
        return b"event: clock\ndata: " + _ENCODER.encode(clock) + b"\n\n"

    @contextmanager
    def _watcher(self) -> Iterator[None]:
        if self._watchers >= MAX_WATCHERS or self._is_closing:
            raise Refusal(503, "Too many watchers.", retry_after=5.0)
        self._watchers += 1
        try:
            yield
        finally:
            self._watchers -= 1


def _happenings(epoch: int, last: int, events: list[Happening]) -> bytes:
    return b"id: %d-%d\ndata: %b\n\n" % (epoch, last, _ENCODER.encode(events))


def _hole(lost: int) -> bytes:
    return b'event: hole\ndata: {"lost":%d}\n\n' % lost
