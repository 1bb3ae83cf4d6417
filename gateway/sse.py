"""Server-sent events: one answer written as its tokens come, kept alive while none come."""

import asyncio
from collections.abc import Sequence

from aiohttp import web

from gateway.calls import Call
from gateway.errors import Refusal
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


class EventStream:
    """One streamed answer.

    Args:
        deadline: loop time at which the request ends with an error.
    """

    def __init__(self, request: Request, form: Format, headers: dict[str, str]) -> None:
        self._request = request
        self._form = form
        self._response = web.StreamResponse(headers=_HEADERS | headers)

    async def run(self, http: web.Request, call: Call, deadline: float) -> web.StreamResponse:
        """Write the whole answer; a failure becomes an error event before the end."""
        await self._response.prepare(http)
        await self._write(http, _events(self._form.opening()))
        try:
            while call.stream.finish is None:
                await self._next(http, call, deadline)
        except Refusal as refusal:
            await self._write(http, _event(refusal.body()) + _DONE)
        else:
            await self._write(http, self._ending(call.stream.usage))
        await self._response.write_eof()
        return self._response

    async def _next(self, http: web.Request, call: Call, deadline: float) -> None:
        silence = asyncio.get_running_loop().time() + PING
        try:
            async with asyncio.timeout_at(min(silence, deadline)):
                pieces = await call.pieces()
        except TimeoutError:
            if silence >= deadline:
                raise Refusal(504, "The request took too long.", code="timeout") from None
            await self._write(http, b": ping\n\n")
        else:
            await self._write(http, _events(self._chunks(pieces, call.stream.usage)))

    def _chunks(self, pieces: Sequence[Piece], usage: Usage) -> list[Answer]:
        if not self._request.continuous_usage:
            return [self._form.chunk(piece, None) for piece in pieces]
        return [
            self._form.chunk(piece, Usage(usage.prompt, piece.token.index + 1)) for piece in pieces
        ]

    def _ending(self, usage: Usage) -> bytes:
        if not self._request.include_usage:
            return _DONE
        return _event(self._form.closing(usage).json()) + _DONE

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


def _events(answers: Sequence[Answer]) -> bytes:
    return b"".join(_event(answer.json()) for answer in answers)


def _event(data: bytes) -> bytes:
    return b"data: " + data + b"\n\n"
