"""Open requests: each one's conversation with the mesh, and the messages that belong to it.

A call lives from its Submit until the last piece is with the client. The inbox loop puts tokens
into its stream and wakes the HTTP handler; nothing here waits for a client. What a slow client
leaves unread is the stream's journal, bounded by the tokens that the request may emit.
"""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from common.messages import (
    Accepted,
    Cancel,
    ControlMessage,
    EndOfRequest,
    Failed,
    FirstToken,
    Rejected,
    Submit,
    Token,
    TokenBatch,
)
from common.service import Process
from gateway.errors import Refusal
from gateway.figures import Figures
from gateway.streams import Piece, Stream

MAX_ATTEMPTS = 3
"""Attempts of one request before its failure is told to the client."""
ANSWER = 30.0
"""Seconds for the router's first answer."""


class Call:
    """One open request, from the side of its HTTP handler."""

    def __init__(self, name: str, stream: Stream, forced_plan: str | None, desk: "Calls") -> None:
        self.name = name
        self.stream = stream
        self.forced_plan = forced_plan
        self.answered = False
        self.failure: Refusal | None = None
        self.first: float | None = None
        self.last = 0.0
        self._desk = desk
        self._changed = asyncio.Event()

    def wake(self) -> None:
        """Let the handler look again."""
        self._changed.set()

    async def accepted(self) -> None:
        """Hand the request in, again and again, until the router took it.

        Raises:
            Refusal: the router rejected it or does not answer.
        """
        try:
            async with asyncio.timeout(ANSWER):
                while not self.answered:
                    self._check()
                    await self._change()
        except TimeoutError:
            raise Refusal(503, "The router does not answer.", retry_after=1.0) from None
        self._check()

    async def pieces(self) -> list[Piece]:
        """The next pieces, at least one; cancelling it loses nothing.

        Raises:
            Refusal: the request failed; what was emitted before has been given out.
        """
        while not (pieces := self.stream.pieces()):
            self._check()
            await self._change()
        return pieces

    def _check(self) -> None:
        if self.failure is not None:
            raise self.failure

    async def _change(self) -> None:
        if self.answered:
            await self._changed.wait()
        else:
            self._desk.submit(self)
            with suppress(TimeoutError):
                async with asyncio.timeout(self._desk.resend):
                    await self._changed.wait()
        self._changed.clear()


class Calls:
    """All open requests of this gateway."""

    def __init__(self, process: Process, figures: Figures) -> None:
        self.resend = process.config.mesh.resend
        self._router = process.config.mesh.router
        self._max = process.config.gateway.max_requests
        self._mesh = process.mesh
        self._clock = process.clock
        self._peer = process.peer
        self._log = process.log
        self._figures = figures
        self._open: dict[str, Call] = {}
        self._places = 0

    def __len__(self) -> int:
        return len(self._open)

    @contextmanager
    def place(self) -> Iterator[float]:
        """A place among the requests being served, from body to last byte; gives the arrival.

        Raises:
            Refusal: all places are taken.
        """
        if self._places >= self._max:
            raise Refusal(503, "Too many open requests.", retry_after=1.0)
        self._places += 1
        self._figures.open.set(self._places)
        try:
            yield self._clock.now()
        finally:
            self._places -= 1
            self._figures.open.set(self._places)

    @contextmanager
    def open(
        self, name: str, stream: Stream, forced_plan: str | None, arrival: float
    ) -> Iterator[Call]:
        """An open request; leaving it tells the mesh to let go of what it may still hold."""
        call = Call(name, stream, forced_plan, self)
        call.last = arrival
        self._open[name] = call
        try:
            yield call
        finally:
            del self._open[name]
            self._close(call, arrival)

    def submit(self, call: Call) -> None:
        """Send the current attempt to the router."""
        stream = call.stream
        ids = stream.ids()
        message = Submit(
            request=call.name,
            attempt=stream.attempt,
            reply=self._peer,
            num_tokens=len(ids),
            num_emitted=len(stream.emitted),
            sampling=stream.sampling,
            ending=stream.ending(),
            forced_plan=call.forced_plan,
        )
        self._mesh.send(self._router, message, ids.tobytes())

    def receive(self, message: ControlMessage) -> None:
        """Give a message to the request that it belongs to; others are counted."""
        match message:
            case TokenBatch(tokens=tokens):
                for token in tokens:
                    self._token(token)
            case FirstToken(token=token):
                self._token(token)
            case Accepted() | Rejected() | Failed() | EndOfRequest():
                call = self._open.get(message.request)
                if call is None or call.stream.attempt != message.attempt:
                    self._stray(message)
                else:
                    self._answer(call, message)
            case _:
                self._stray(message)

    def fence(self) -> None:
        """The router has given every open request up; it says so to each one."""

    def _token(self, token: Token) -> None:
        call = self._open.get(token.request)
        if call is None:
            return
        if token.finish in ("error", "abort") and token.attempt == call.stream.attempt:
            self._ended(call)
        elif call.stream.take(token):
            self._measure(call)
            call.answered = True
            call.wake()

    def _measure(self, call: Call) -> None:
        now = self._clock.now()
        if call.first is None:
            call.first = now
            self._figures.ttft.observe(now - call.last)
            self._figures.prompt_tokens.inc(len(call.stream.prompt))
        else:
            self._figures.itl.observe(now - call.last)
        self._figures.generation_tokens.inc()
        call.last = now

    def _ended(self, call: Call) -> None:
        call.failure = Refusal(500, "The request was ended by the server.")
        call.wake()

    def _answer(self, call: Call, message: Accepted | Rejected | Failed | EndOfRequest) -> None:
        match message:
            case Accepted():
                call.answered = True
            case Rejected(status=status, reason=reason, retry_after=retry_after):
                call.failure = Refusal(status, reason, retry_after=retry_after)
            case Failed():
                self._failed(call, message)
            case EndOfRequest(reason="error" | "abort"):
                self._ended(call)
            case EndOfRequest():
                return  # its last token says so itself
        call.wake()

    def _failed(self, call: Call, failed: Failed) -> None:
        # What went wrong may name machines, which is for the log and not for the client.
        self._log.warning("attempt failed", request=call.name, what=failed.what, why=failed.why)
        if not failed.retryable:
            call.failure = Refusal(500, "The request failed in the server.")
        elif call.stream.attempt == MAX_ATTEMPTS:
            call.failure = Refusal(503, "The request failed several times.", retry_after=1.0)
        else:
            call.stream.restart()
            call.answered = False
            self._figures.retries.inc()

    def _close(self, call: Call, arrival: float) -> None:
        stream = call.stream
        self._figures.ended(stream.finish or ("error" if call.failure else "abort"))
        if stream.finish is not None:
            self._figures.e2e.observe(self._clock.now() - arrival)
        if stream.closed:
            return
        if stream.finish is not None:
            count = stream.usage.completion
            end = EndOfRequest(call.name, stream.attempt, count, stream.finish)
            self._mesh.send(self._router, end)
        else:
            self._mesh.send(self._router, Cancel(call.name, stream.attempt))

    def _stray(self, message: ControlMessage) -> None:
        self._figures.stray.labels(type(message).__name__).inc()
