"""One open call: a submission to the mesh, and what becomes of its attempts."""

from math import inf

from common.messages import Cancel, EndOfRequest, Peer, PromptScores, Resend, Submit
from gateway.errors import Refusal
from gateway.mesh.attempt import Action, Attempt
from gateway.mesh.bell import Bell
from gateway.mesh.streams import Stream

FOREVER = 1e9
"""Seconds; more patience than a message can say."""


class Call:
    """One submission; `Calls` talks to the mesh for it, the handler of its request waits.

    Args:
        arrival: of its request, on the process' clock like all times here.
        deadline: when the client gives up.
        bell: of its request; calls of one request share it.
    """

    def __init__(
        self,
        name: str,
        stream: Stream,
        forced_plan: str | None,
        arrival: float,
        deadline: float = inf,
        bell: "Bell[Call] | None" = None,
    ) -> None:
        self.name = name
        self.stream = stream
        self.forced_plan = forced_plan
        self.attempt = Attempt(base=0, submit_at=arrival)
        self.evicted = False
        """Whether decode once evicted it."""
        self.fruitless = 0
        """Attempts in a row that have failed without anything new."""
        self.failure: Refusal | None = None
        self.arrival = arrival
        self.deadline = deadline
        self.bell: Bell[Call] = Bell() if bell is None else bell
        self.taken = False
        """Whether the router has ever taken it."""
        self.predicted: float | None = None
        """Seconds to the first token, as the router said when it took it in."""
        self.queued: float | None = None
        """Seconds that it waited for its plan and its turn, where that is known."""
        self.first: float | None = None
        """When the first token came."""
        self.last: float | None = None
        """When the last token came, of any attempt."""
        self._scored = -inf
        self._has_scored = False

    @property
    def is_scored(self) -> bool:
        """Whether no score of its prompt is missing."""
        return self.stream.scores is None or self.stream.scores.complete

    @property
    def is_over(self) -> bool:
        """Whether nothing more is wanted of the mesh."""
        return self.failure is not None or (self.stream.ended and self.is_scored)

    @property
    def is_running(self) -> bool:
        """Whether the current attempt still has to bring tokens."""
        if not self.stream.ended:
            return self.failure is None
        return self.attempt.only_scores and self.attempt.begun == inf and not self.is_over

    def accept(self, predicted: float | None = None) -> None:
        """The router has taken the current attempt, whose first token is so many seconds away."""
        if not self.taken:
            self.predicted = predicted
        self.attempt.accepted = self.taken = True
        self.wake()

    def fail(self, failure: Refusal) -> None:
        """End it with an error, unless it has ended already."""
        if not self.is_over:
            self.failure = failure
            self.wake()

    def renew(self, now: float, limit: int, *, evicted: bool = False) -> None:
        """Begin the next attempt, or fail when `limit` of them have brought nothing."""
        self.evicted = self.evicted or evicted
        if self._has_brought():
            self.fruitless = 0
        elif not evicted:
            self.fruitless += 1
        if self.fruitless >= limit:
            self.fail(Refusal(503, "The request failed several times.", retry_after=1.0))
            return
        stream = self.stream
        stream.restart()
        base = 0 if stream.ended else len(stream.emitted)
        self.attempt = Attempt(base, submit_at=now, only_scores=stream.ended)
        self._has_scored = False

    def score(self, message: PromptScores, now: float) -> bool:
        """Take scores of the prompt in; False if they are of no use."""
        scores, last = self.stream.scores, message.start + len(message.scores) - 1
        length = len(self.stream.prompt) + self.attempt.base
        if scores is None or message.attempt != self.stream.attempt or last >= length:
            return False
        if scores.take(message.start, message.scores):
            self._scored, self._has_scored = now, True
            self.wake()
        return True

    def due(self, now: float, stall: float) -> Action | None:
        """What is to be done, and whether nothing has come for `stall` seconds."""
        if self.is_over:
            return None
        # Scores that do not come although the whole prompt is computed have got lost.
        if not self.is_scored and now - max(self.attempt.begun, self._scored) >= stall:
            return "renew"
        return self.attempt.due(now, stall, gap=self.stream.gap) if self.is_running else None

    def wake(self) -> None:
        """Let the handler look again."""
        self.bell.ring(self)

    def _has_brought(self) -> bool:
        has_grown = len(self.stream.emitted) > self.attempt.base
        return self._has_scored or (has_grown and not self.attempt.only_scores)

    # What it has to say

    def submit(self, reply: Peer, now: float, again_at: float) -> tuple[Submit, bytes]:
        """The current attempt and its ids, to be said again at `again_at` if unanswered."""
        stream, ids = self.stream, self.stream.ids()
        self.attempt.may_be_held = True
        self.attempt.submit_at = again_at
        is_endless = self.deadline - now > FOREVER
        message = Submit(
            request=self.name,
            attempt=stream.attempt,
            reply=reply,
            num_tokens=len(ids),
            num_emitted=self.attempt.base,
            sampling=stream.sampling,
            ending=stream.ending(),
            forced_plan=self.forced_plan,
            evicted=self.evicted,
            prompt_logprobs=self._wanted(),
            patience=None if is_endless else max(0.0, self.deadline - now),
        )
        return message, ids.tobytes()

    def ask(self, reply: Peer, now: float) -> Resend:
        """For the tokens that the stream cannot go on without."""
        self.attempt.asked(now)
        return Resend(self.name, self.stream.attempt, len(self.stream.emitted), reply)

    def let_go(self) -> Cancel | EndOfRequest | None:
        """That the current attempt is over; None when nobody can hold anything of it."""
        stream, attempt = self.stream, self.attempt
        is_closed = attempt.begun < inf if attempt.only_scores else stream.closed
        if not attempt.may_be_held or is_closed:
            return None
        attempt.may_be_held = False
        if stream.ended and not attempt.only_scores:
            return EndOfRequest(self.name, stream.attempt, stream.usage.completion, "stop")
        return Cancel(self.name, stream.attempt)

    def _wanted(self) -> int:
        """Alternatives with each prompt token; -1 where its scores are known or not wanted."""
        scores = self.stream.scores
        return -1 if scores is None or scores.complete else scores.top
