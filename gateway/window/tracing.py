"""`GET /tetris/trace`: what happened lately, for Perfetto; made piece by piece while it is sent."""

import asyncio
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import islice

import msgspec
from aiohttp import web

from common.events import Happening, Planned
from gateway.doors.writing import write
from gateway.errors import Refusal
from gateway.mesh.queries import number
from gateway.window.history import MAX_AGE
from gateway.window.trace import Record, Trace
from gateway.window.window import Window

SECONDS = 60.0
PIECE = 250
"""Events that are turned into records before others have a turn."""
MAX_TRACES = 2
"""That are made at the same time."""
_HEADERS = {
    "Content-Type": "application/json",
    "Content-Disposition": 'attachment; filename="tetris-trace.json"',
}
_ENCODER = msgspec.json.Encoder()


class Tracing:
    """Makes traces of the history."""

    def __init__(self, window: Window) -> None:
        self._window = window
        self._traces = 0

    async def trace(self, http: web.Request) -> web.StreamResponse:
        """`GET /tetris/trace?seconds=60`: Chrome's trace format."""
        seconds = number(http, "seconds", SECONDS, 1.0, MAX_AGE)
        with self._place():
            response = web.StreamResponse(headers=_HEADERS)
            response.enable_compression()
            await response.prepare(http)
            for piece in self.pieces(seconds):
                await write(http, response, piece)
                await asyncio.sleep(0)
            await response.write_eof()
        return response

    def pieces(self, seconds: float) -> Iterator[bytes]:
        """The trace in parts; each takes little time, and is of what is remembered by then."""
        history = self._window.history
        position = history.since(self._window.clock.now() - seconds)
        end, trace = history.end, None
        yield b'{"displayTimeUnit":"ms","traceEvents":['
        records = _Records()
        while position < end:
            read = history.read(position)
            position = read.next
            if trace is None and read.events:
                trace = Trace(read.events[0].at, history.nodes, self._plan_of)
            for first in range(0, len(read.events), PIECE):
                assert trace is not None, "made with the first event"
                yield records.of(_added(trace, read.events[first : first + PIECE]))
        if trace is not None:
            rest = trace.end()
            while piece := records.of(islice(rest, PIECE)):
                yield piece
        yield b"]}"

    def _plan_of(self, request: str, attempt: int) -> Planned | None:
        for event in self._window.history.of(request):
            if isinstance(event, Planned) and event.attempt == attempt:
                return event
        return None

    @contextmanager
    def _place(self) -> Iterator[None]:
        if self._traces >= MAX_TRACES:
            raise Refusal(503, "Too many traces at once.", retry_after=5.0)
        self._traces += 1
        try:
            yield
        finally:
            self._traces -= 1


class _Records:
    """Records as elements of one JSON list."""

    def __init__(self) -> None:
        self._is_first = True

    def of(self, records: Iterable[Record]) -> bytes:
        data = _ENCODER.encode(list(records))[1:-1]
        if not data:
            return b""
        comma = b"" if self._is_first else b",\n"
        self._is_first = False
        return comma + data


def _added(trace: Trace, events: Iterable[Happening]) -> Iterator[Record]:
    for event in events:
        yield from trace.add(event)
