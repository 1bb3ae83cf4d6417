"""One open request: what its HTTP handler waits for, and what becomes of its attempts."""

import asyncio

from common.messages import Cancel, EndOfRequest, Peer, Resend, Submit
from gateway.attempt import Attempt
from gateway.errors import Refusal
from gateway.streams import Piece, Stream

ANSWER = 30.0
"""Seconds for the router's first answer."""


class Call:
    """One open request; `Calls` talks to the mesh for it, its handler waits here."""

    def __init__(self, name: str, stream: Stream, forced_plan: str | None, arrival: float) -> None:
        self.name = name
        self.stream = stream
        self.forced_plan = forced_plan
        self.attempt = Attempt(base=0, submit_at=arrival)
        self.evicted = False
        """Whether decode once evicted it."""
        self.fruitless = 0
        """Attempts in a row that have failed without a token."""
        self.failure: Refusal | None = None
        self.arrival = arrival
        self.predicted: float | None = None
        """Seconds to the first token, as the router said when it took it in."""
        self.last: float | None = None
        """When the last token came, of any attempt."""
        self._taken = False
        self._changed = asyncio.Event()

    @property
    def is_over(self) -> bool:
        """Whether nothing more is wanted of the mesh."""
        return self.failure is not None or self.stream.ended

    def accept(self, predicted: float | None = None) -> None:
        """The router has taken the current attempt, whose first token is so many seconds away."""
        if not self._taken:
            self.predicted = predicted
        self.attempt.accepted = self._taken = True
        self.wake()

    def fail(self, failure: Refusal) -> None:
        """End it with an error, unless it has ended already."""
        if not self.is_over:
            self.failure = failure
            self.wake()

    def renew(self, now: float, limit: int, *, evicted: bool = False) -> None:
        """Begin the next attempt, or fail when `limit` of them have brought nothing."""
        self.evicted = self.evicted or evicted
        if len(self.stream.emitted) > self.attempt.base:
            self.fruitless = 0
        elif not evicted:
            self.fruitless += 1
        if self.fruitless >= limit:
            self.fail(Refusal(503, "The request failed several times.", retry_after=1.0))
            return
        self.stream.restart()
        self.attempt = Attempt(base=len(self.stream.emitted), submit_at=now)

    # What it has to say

    def submit(self, reply: Peer, again_at: float) -> tuple[Submit, bytes]:
        """The current attempt and its ids, to be said again at `again_at` if unanswered."""
        stream, ids = self.stream, self.stream.ids()
        self.attempt.may_be_held = True
        self.attempt.submit_at = again_at
        message = Submit(
            request=self.name,
            attempt=stream.attempt,
            reply=reply,
            num_tokens=len(ids),
            num_emitted=len(stream.emitted),
            sampling=stream.sampling,
            ending=stream.ending(),
            forced_plan=self.forced_plan,
            evicted=self.evicted,
        )
        return message, ids.tobytes()

    def ask(self, reply: Peer, now: float) -> Resend:
        """For the tokens that the stream cannot go on without."""
        self.attempt.asked(now)
        return Resend(self.name, self.stream.attempt, len(self.stream.emitted), reply)

    def let_go(self) -> Cancel | EndOfRequest | None:
        """That the current attempt is over; None when nobody can hold anything of it."""
        stream = self.stream
        if not self.attempt.may_be_held or stream.closed:
            return None
        self.attempt.may_be_held = False
        if stream.ended:
            return EndOfRequest(self.name, stream.attempt, stream.usage.completion, "stop")
        return Cancel(self.name, stream.attempt)

    # Its handler

    def wake(self) -> None:
        """Let the handler look again."""
        self._changed.set()

    async def accepted(self) -> None:
        """Wait until the router has taken it.

        Raises:
            Refusal: the router rejected it or does not answer.
        """
        try:
            async with asyncio.timeout(ANSWER):
                while not self._taken:
                    await self._change()
        except TimeoutError:
            raise Refusal(503, "The router does not answer.", retry_after=1.0) from None

    async def pieces(self) -> list[Piece]:
        """The next pieces, at least one; cancelling it loses nothing.

        Raises:
            Refusal: the request failed; what was emitted before has been given out.
        """
        while not (pieces := self.stream.pieces()):
            await self._change()
        return pieces

    async def _change(self) -> None:
        if self.failure is not None:
            raise self.failure
        await self._changed.wait()
        self._changed.clear()
