"""What a worker has to tell the router until it is answered: the ends and failures of attempts.

Pure. Each report is due at once and then again every `resend` seconds, until its attempt is
settled. Too many at a time push the oldest out; the router's own look at the books finds those.
"""

from dataclasses import dataclass
from typing import Generic, TypeVar

from common.pages import Owner

T = TypeVar("T")

MAX_REPORTS = 4096
"""Reports that wait for an answer."""


@dataclass
class _Report(Generic[T]):
    message: T
    sent_at: float = float("-inf")


class Reports(Generic[T]):
    """One unanswered report for each attempt, oldest first.

    Args:
        resend: seconds between two times that a report is due.
        limit: reports that are kept.
    """

    def __init__(self, resend: float, limit: int = MAX_REPORTS) -> None:
        self._resend = resend
        self._limit = limit
        self._owed: dict[Owner, _Report[T]] = {}

    def __len__(self) -> int:
        return len(self._owed)

    def owe(self, owner: Owner, message: T) -> None:
        """Report an attempt's end; it ends once, so what was reported first stays."""
        self._owed.setdefault(owner, _Report(message))
        if len(self._owed) > self._limit:
            del self._owed[next(iter(self._owed))]

    def due(self, now: float) -> list[T]:
        """What to send now; each is due again `resend` seconds later."""
        due = [report for report in self._owed.values() if now - report.sent_at >= self._resend]
        for report in due:
            report.sent_at = now
        return [report.message for report in due]

    def settle(self, owner: Owner) -> None:
        """The router knows of this attempt's end. Idempotent."""
        self._owed.pop(owner, None)

    def clear(self) -> None:
        """Owe nothing any more, as in a new life."""
        self._owed.clear()
