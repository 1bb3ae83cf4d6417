"""Who is taken in: whoever need not wait too long, in a queue that is not too long.

What counts against `max_ttft` is the predicted wait: the predicted TTFT without what the prompt
would take in an empty mesh. So everybody waits alike, whatever the length of his prompt, and a
prompt that takes longer than `max_ttft` by itself is served, too. Newcomers may wait for a part of
it; those who return when they were asked to find the rest, which newcomers cannot take from them.
"""

import math

from common.config import RouterConfig
from common.messages import Rejected
from services.router.books import Books
from services.router.forecast import Expected
from services.router.outlook import Outlook
from services.router.planning import Planning
from services.router.promises import Promises, fingerprint
from services.router.requests import Request

WAIT = 0.9
"""Share of `max_ttft` for which anybody waits; prompts need a tenth of it and more themselves."""
NEW = 0.75
"""Share of it for newcomers."""
NEW_IN_QUEUE = 0.9
"""Share of the queue for newcomers."""
AGAIN_IN_QUEUE = 2.0
"""Share of the queue for new attempts of what was accepted before."""
RETRY_AFTER = 2.0
"""Seconds that a client is asked to wait where nobody knows how long it takes."""


class Entrance:
    """Judges every attempt that comes in; new attempts of accepted requests only by the queue."""

    def __init__(self, config: RouterConfig, books: Books, planning: Planning) -> None:
        self.outlook = Outlook(books, planning)
        self.promises = Promises()
        self._max_ttft = config.max_ttft or math.inf
        self._books = books

    def refusal(self, request: Request, now: float) -> Rejected | None:
        """Why a request is not taken in now, and when it would be; None when it is.

        Notes when its first token is expected.
        """
        expected = self.outlook.expect(request, now)
        request.expected = None if expected is None else expected.at
        if request.is_retry:
            return self._full(request) if self._books.requests.full(AGAIN_IN_QUEUE) else None
        if expected is None:
            return self._full(request) if self._books.requests.full(1.0) else None
        return self._impatient(request, expected, now) or self._judge(request, expected, now)

    def joined(self, request: Request) -> None:
        """A request has been taken in."""
        self.outlook.joined(request)

    def _judge(self, request: Request, expected: Expected, now: float) -> Rejected | None:
        """The rules for newcomers, or for those who come back in their time."""
        promises, full = self.promises, self._books.requests.full
        wait = self._wait(request, expected, now)
        if wait <= NEW * self._max_ttft and not full(NEW_IN_QUEUE) and not promises:
            return None
        key = fingerprint(request.submit, request.ids)
        share, queue = (WAIT, 1.0) if promises.is_due(key, now) else (NEW, NEW_IN_QUEUE)
        is_late = wait > share * self._max_ttft
        if not is_late and not full(queue):
            promises.redeem(key, now)
            return None
        after = promises.make(key, expected.work, wait - NEW * self._max_ttft, now)
        if not is_late:
            return self._full(request, after)
        reason = (
            f"the first token is predicted in {expected.at - now:.1f} s, after {wait:.1f} s of "
            f"waiting; raise router.max_ttft or add prefill workers"
        )
        return Rejected(*request.owner, 503, reason, after)

    def _impatient(self, request: Request, expected: Expected, now: float) -> Rejected | None:
        """Whether a client would have given up before its first token."""
        patience, ttft = request.submit.patience, expected.at - now
        if patience is None or ttft <= patience:
            return None
        alone = self._alone(request, now)
        # What a mesh that lacks members cannot do, the whole one may.
        if alone > patience and not self._books.registry.is_growing(now):
            reason = (
                f"the first token of {request.length} tokens is predicted after {alone:.1f} s in "
                f"an empty cluster; raise timeout, which leaves {patience:.1f} s"
            )
            return Rejected(*request.owner, 400, reason)
        reason = f"the first token is predicted in {ttft:.1f} s, timeout leaves {patience:.1f} s"
        return Rejected(*request.owner, 503, reason, max(1.0, ttft - patience))

    def _wait(self, request: Request, expected: Expected, now: float) -> float:
        """Seconds that it waits for others, at most; exactly where they could be too many."""
        ttft = expected.at - now
        if ttft <= NEW * self._max_ttft:
            return ttft
        return ttft - self._alone(request, now)

    def _alone(self, request: Request, now: float) -> float:
        return self.outlook.alone(request, now) or 0.0

    def _full(self, request: Request, after: float = RETRY_AFTER) -> Rejected:
        waiting = self._books.requests.num_waiting
        reason = f"{waiting} requests are waiting; raise router.max_queue"
        return Rejected(*request.owner, 503, reason, after)
