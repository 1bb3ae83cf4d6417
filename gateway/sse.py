"""Server-sent events: one answer written as its tokens come, kept alive while none come."""

import asyncio
from collections.abc import Sequence

from aiohttp import web

from gateway.call import Call
from gateway.errors import Refusal, too_late
from gateway.openai import Request
from gateway.responses import Answer, Format
from gateway.streams import Piece, Usage

PING = 10.0
"""Seconds of silence after which a comment keeps proxies from closing the connection."""
WRITE = 30.0
"""Seconds for a client to take what is written."""
_HEADERS = {
    "Content-Type": "text/event-stream; charset=utf-8",
    "Cache-Control": "no-cache",
    "X-Accel-Buffering": "no",
}
_DONE = b"data: [DONE]\n\n"


class Events:
    """The bytes of one streamed answer."""

    def __init__(self, request: Request, form: Format) -> None:
        self._request = request
        self._form = form

    def opening(self) -> bytes:
        """What comes before the first token."""
        return b"".join(_event(answer.json()) for answer in self._form.opening())

    def tokens(self, pieces: Sequence[Piece], num_prompt: int) -> bytes:
        """One event for each token."""
        return b"".join(_event(self._chunk(piece, num_prompt).json()) for piece in pieces)

    def ending(self, usage: Usage) -> bytes:
        """What comes after the last token."""
        if not self._request.include_usage:
            return _DONE
        return _event(self._form.closing(usage).json()) + _DONE

    def failure(self, refusal: Refusal) -> bytes:
        """The end of an answer that cannot go on."""
        return _event(refusal.body()) + _DONE

    def _chunk(self, piece: Piece, num_prompt: int) -> Answer:
        if not self._request.continuous_usage:
            return self._form.chunk(piece, None)
        return self._form.chunk(piece, Usage(num_prompt, piece.token.index + 1))


class EventStream:
    """One streamed answer on its way to the client."""

    def __init__(self, events: Events, headers: dict[str, str]) -> None:
        self._events = events
        self._response = web.StreamResponse(headers=_HEADERS | headers)

    async def run(self, http: web.Request, call: Call, deadline: float) -> web.StreamResponse:
        """Write the whole answer; a failure becomes an error event before the end.

        So does `deadline`, in loop time.
        """
        await self._response.prepare(http)
        await self._write(http, self._events.opening())
        try:
            while call.stream.finish is None:
                await self._next(http, call, deadline)
        except Refusal as refusal:
            await self._write(http, self._events.failure(refusal))
        else:
            await self._write(http, self._events.ending(call.stream.usage))
        await self._response.write_eof()
        return self._response

    async def _next(self, http: web.Request, call: Call, deadline: float) -> None:
        silence = asyncio.get_running_loop().time() + PING
        try:
            async with asyncio.timeout_at(min(silence, deadline)):
                pieces = await call.pieces()
        except TimeoutError:
            if silence >= deadline:
                raise too_late() from None
            await self._write(http, b": ping\n\n")
        else:
            await self._write(http, self._events.tokens(pieces, len(call.stream.prompt)))

    async def _write(self, http: web.Request, data: bytes) -> None:
        if not data:
            return
        try:
            async with asyncio.timeout(WRITE):
                await self._response.write(data)
        except TimeoutError:
            if http.transport is not None:
                http.transport.abort()
            raise ConnectionResetError("the client does not read") from None


def _event(data: bytes) -> bytes:
    return b"data: " + data + b"\n\n"
