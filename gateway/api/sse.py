"""Server-sent events: one answer written as its tokens come, kept alive while none come."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from aiohttp import web

from gateway.api.answers import Answer
from gateway.api.choices import Choices, News
from gateway.api.request import Request
from gateway.api.responses import Format
from gateway.api.timing import Metrics, measure
from gateway.doors.writing import write
from gateway.errors import Refusal, too_late
from gateway.mesh.streams import Piece, Usage

PING = 10.0
"""Seconds of silence after which a comment keeps proxies from closing the connection."""
HEADERS = {
    "Content-Type": "text/event-stream; charset=utf-8",
    "Cache-Control": "no-cache",
    "X-Accel-Buffering": "no",
}
_DONE = b"data: [DONE]\n\n"
T = TypeVar("T")


class Events:
    """The bytes of one streamed answer."""

    def __init__(self, request: Request, form: Format) -> None:
        self._form = form
        self._usage = request.include_usage
        self._running_usage = request.continuous_usage

    def opening(self) -> bytes:
        """What comes before the first token."""
        answers = self._form.opening(usage=self._running_usage)
        return b"".join(_event(answer.json()) for answer in answers)

    def tokens(self, index: int, pieces: Sequence[Piece], num_prompt: int) -> bytes:
        """One event for each token of a choice."""
        return b"".join(_event(self._chunk(index, p, num_prompt).json()) for p in pieces)

    def ending(self, usage: Usage, metrics: Metrics) -> bytes:
        """What comes after the last token."""
        if not self._usage:
            return _DONE
        return _event(self._form.closing(usage, metrics).json()) + _DONE

    def failure(self, refusal: Refusal) -> bytes:
        """The end of an answer that cannot go on."""
        return _event(refusal.body()) + _DONE

    def _chunk(self, index: int, piece: Piece, num_prompt: int) -> Answer:
        if not self._running_usage:
            return self._form.chunk(index, piece, None)
        return self._form.chunk(index, piece, Usage(num_prompt, piece.token.index + 1))


class Telling:
    """One streamed answer on its way to the client.

    Args:
        deadline: in loop time.
        write: sends bytes to the client, in bounded time.
        work: runs what may take long.
    """

    def __init__(
        self,
        events: Events,
        choices: Choices,
        deadline: float,
        write: Callable[[bytes], Awaitable[None]],
        work: Callable[[Callable[[], bytes]], Awaitable[bytes]],
    ) -> None:
        self._events = events
        self._choices = choices
        self._deadline = deadline
        self._write = write
        self._work = work

    async def run(self) -> None:
        """Write the whole answer; a failure becomes an error event before the end.

        So does the deadline.
        """
        events, choices = self._events, self._choices
        try:
            # The prompt cannot be echoed before its scores are there.
            await self._when(choices.scored)
            await self._write(await self._work(events.opening))
            await self._tokens()
        except Refusal as refusal:
            await self._write(events.failure(refusal))
        else:
            await self._write(events.ending(choices.usage, measure(choices.calls)))

    async def _tokens(self) -> None:
        """Write what comes, each time in one piece, and comments while nothing comes.

        A timer for each wait would cost as much as a token: there is one for a whole silence.
        """
        choices, loop = self._choices, asyncio.get_running_loop()
        written = loop.time()
        while not choices.are_finished:
            alarm = loop.call_at(min(written + PING, self._deadline), choices.nudge)
            while loop.time() < alarm.when() and not choices.are_finished:
                if news := await choices.more():
                    await self._write(self._bytes(news))
                    written = loop.time()
            alarm.cancel()
            if loop.time() >= self._deadline and not choices.are_finished:
                raise too_late()
            if loop.time() >= written + PING:
                await self._write(b": ping\n\n")
                written = loop.time()

    def _bytes(self, news: News) -> bytes:
        calls, tokens = self._choices.calls, self._events.tokens
        parts = [tokens(index, more, len(calls[index].stream.prompt)) for index, more in news]
        return parts[0] if len(parts) == 1 else b"".join(parts)

    async def _when(self, there: Callable[[], Awaitable[T]]) -> T:
        """Wait for something that can be waited for again, and tell the client that it is slow."""
        while True:
            silence = asyncio.get_running_loop().time() + PING
            try:
                async with asyncio.timeout_at(min(silence, self._deadline)):
                    return await there()
            except TimeoutError:
                if silence >= self._deadline:
                    raise too_late() from None
                await self._write(b": ping\n\n")


class Connection:
    """The HTTP side of a stream: headers, then bytes that a client has to take in time."""

    def __init__(self, http: web.Request, headers: dict[str, str]) -> None:
        self._http = http
        self.response = web.StreamResponse(headers=HEADERS | headers)

    async def write(self, data: bytes) -> None:
        """Send some bytes; raises ConnectionResetError when the client does not take them."""
        if data:
            await write(self._http, self.response, data)


def _event(data: bytes) -> bytes:
    return b"data: " + data + b"\n\n"
