"""How attempts have ended: remembered, so that it can be said again and nothing late revives one.

Pure and bounded. A request keeps its place in the line over all its attempts.
"""

from dataclasses import dataclass

from common.messages import Cancel, EndOfRequest, Failed, Rejected
from common.pages import Owner

MAX_ENDED = 16384
"""Ended attempts that are remembered."""

How = EndOfRequest | Failed | Rejected | Cancel
"""What ended an attempt; `Cancel` only where the gateway itself gave it up."""


@dataclass(frozen=True, slots=True)
class Ending:
    """The end of one attempt; `place` is the request's in the line, None for strangers."""

    how: How
    place: int | None


class Endings:
    """The last attempts that have ended."""

    def __init__(self) -> None:
        self._endings: dict[Owner, Ending] = {}

    def __contains__(self, owner: Owner) -> bool:
        return owner in self._endings

    def add(self, owner: Owner, how: How, place: int | None) -> None:
        """Remember an end; what came first stays."""
        self._endings.setdefault(owner, Ending(how, place))
        if len(self._endings) > MAX_ENDED:
            del self._endings[next(iter(self._endings))]

    def how(self, owner: Owner) -> How | None:
        """What ended an attempt; None when it is not remembered."""
        ending = self._endings.get(owner)
        return ending.how if ending is not None else None

    def place(self, owner: Owner) -> int | None:
        """The place in the line that the attempt had."""
        ending = self._endings.get(owner)
        return ending.place if ending is not None else None


def end_of(owner: Owner, how: How | None) -> EndOfRequest:
    """What a member that holds something of an ended attempt is told."""
    match how:
        case EndOfRequest(num_tokens=num_tokens, reason=reason):
            return EndOfRequest(owner.request, owner.attempt, num_tokens, reason)
        case Failed():
            return EndOfRequest(owner.request, owner.attempt, 0, "error")
        case _:
            return EndOfRequest(owner.request, owner.attempt, 0, "abort")
