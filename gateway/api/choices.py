"""All that one HTTP request asks of the mesh: a call for every choice of every prompt.

The calls share a bell, so that one handler waits for all of them at once. If one of them fails,
the request fails.
"""

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from math import inf

from msgspec import Struct

from gateway.errors import Refusal
from gateway.mesh.bell import Bell
from gateway.mesh.call import Call
from gateway.mesh.calls import Calls
from gateway.mesh.streams import Piece, Stream, Usage

ANSWER = 30.0
"""Seconds for the router's first answer."""

News = list[tuple[int, list[Piece]]]
"""Pieces with the index of the choice that they belong to."""


class Choices:
    """The calls of one request in the order of their choices, `n` for each prompt.

    All waits raise Refusal when one of the calls fails, after what had come before was given out;
    cancelling one loses nothing.
    """

    def __init__(self, calls: Sequence[Call], n: int = 1) -> None:
        self.calls = calls
        self._n = n
        self._bell = calls[0].bell
        self._index = {call: index for index, call in enumerate(calls)}
        self._unread: dict[Call, None] = {}
        self._left = len(calls)
        self._failure: Refusal | None = None

    @property
    def are_finished(self) -> bool:
        """Whether the last piece of every choice has been given out."""
        return self._left == 0

    @property
    def usage(self) -> Usage:
        """Tokens of the prompts, each counted once, and of all choices."""
        prompt = sum(len(call.stream.prompt) for call in self.calls[:: self._n])
        return Usage(prompt, sum(len(call.stream.emitted) for call in self.calls))

    @property
    def predicted(self) -> float | None:
        """Seconds to the last of the first tokens, as the router said when it took them in."""
        told = [call.predicted for call in self.calls if call.predicted is not None]
        return max(told, default=None)

    async def accepted(self) -> None:
        """Wait until the router has taken all of them, or does not answer.

        Who is refused hears it when all are answered: for the last of them there is room last.
        """
        try:
            async with asyncio.timeout(ANSWER):
                while not all(call.taken or call.failure for call in self.calls):
                    await self._hear()
        except TimeoutError:
            if not self._failures:
                message = "The router does not answer."
                raise Refusal(503, message, retry_after=1.0) from None
        if self._failures:
            raise max(self._failures, key=_until_worthwhile)

    async def scored(self) -> None:
        """Wait until the scores of all prompts are there."""
        while not all(call.is_scored for call in self.calls):
            await self._listen()

    async def next(self) -> News:
        """What has come since the last time, at least one piece."""
        while not (news := await self.more()):
            pass
        return news

    async def more(self) -> News:
        """What has come since the last time; nothing where somebody has only nudged."""
        news = self._read()
        if not news:
            await self._listen()
            news = self._read()
        return news

    def nudge(self) -> None:
        """Let who waits for more look at the clock."""
        self._bell.nudge()

    async def all(self) -> list[list[Piece]]:
        """Everything, when it is complete: the pieces of each choice, and all scores."""
        pieces: list[list[Piece]] = [[] for _ in self.calls]
        while not self.are_finished:
            for index, more in await self.next():
                pieces[index] += more
        await self.scored()
        return pieces

    @property
    def _failures(self) -> list[Refusal]:
        return [call.failure for call in self.calls if call.failure is not None]

    async def _listen(self) -> None:
        if self._failure is not None:
            raise self._failure
        await self._hear()

    async def _hear(self) -> None:
        for call in await self._bell.heard():
            self._unread[call] = None
            self._failure = self._failure or call.failure

    def _read(self) -> News:
        news: News = []
        if self._unread:
            for call in self._unread:
                if pieces := call.stream.pieces():
                    news.append((self._index[call], pieces))
                    self._left -= pieces[-1].finish is not None
            self._unread.clear()
        return news


def _until_worthwhile(refusal: Refusal) -> float:
    """Seconds until it makes sense to come back; for ever where waiting changes nothing."""
    return inf if refusal.retry_after is None else refusal.retry_after


class Order(Struct, frozen=True):
    """What the calls of one request have in common; times are those of the process' clock."""

    name: str
    """The answer's id; a call that is not alone gets a number behind it."""
    forced_plan: str | None
    arrival: float
    deadline: float


@contextmanager
def opened(calls: Calls, order: Order, streams: Sequence[Stream], n: int) -> Iterator[Choices]:
    """Submit all of them; leaving it tells the mesh to let go of what it may still hold."""
    bell: Bell[Call] = Bell()
    plan, arrival, deadline = order.forced_plan, order.arrival, order.deadline
    with ExitStack() as stack:
        opened: list[Call] = []
        for index, stream in enumerate(streams):
            name = order.name if len(streams) == 1 else f"{order.name}-{index}"
            call = calls.open(name, stream, plan, arrival, deadline, bell)
            opened.append(stack.enter_context(call))
        yield Choices(opened, n)
