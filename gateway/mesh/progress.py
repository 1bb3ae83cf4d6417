"""Whether what is open gets on: health is movement, not the ability to answer; time is given."""

from collections.abc import Sequence
from math import inf

from common.messages import (
    Accepted,
    ControlMessage,
    FirstToken,
    Open,
    PromptScores,
    TokenBatch,
)

SLACK = 5.0
"""Times the predicted seconds to a first token for which none may come."""


class Progress:
    """When the mesh was heard last, and when a token came while requests were open.

    Args:
        patience: seconds without either, while there is work, that are no trouble yet.
    """

    def __init__(self, patience: float) -> None:
        self._patience = patience
        self._heard = -inf
        self._moved = -inf
        self._busy_since: float | None = None
        self._taken_since: float | None = None
        self._predicted: dict[str, float] = {}

    def receive(self, message: ControlMessage, now: float) -> None:
        """Any message of the mesh."""
        self._heard = now
        if isinstance(message, FirstToken | TokenBatch | PromptScores):
            self._moved = now
        elif isinstance(message, Accepted) and message.predicted_ttft is not None:
            before = self._predicted.get(message.request, 0.0)
            self._predicted[message.request] = max(message.predicted_ttft, before)

    def see(self, places: int, taken: Sequence[Open], now: float) -> None:
        """Look, often, at the requests being served and at those that the router has taken."""
        self._busy_since = _since(self._busy_since, places, now)
        self._taken_since = _since(self._taken_since, len(taken), now)
        names = {one.request for one in taken}
        self._predicted = {
            name: seconds for name, seconds in self._predicted.items() if name in names
        }

    def trouble(self, now: float) -> str | None:
        """Why nothing gets on, or None when all is well."""
        if self._busy_since is not None:
            silence = now - max(self._heard, self._busy_since)
            if silence > self._patience:
                return f"requests are open and the mesh was not heard for {silence:.0f} s"
        if self._taken_since is not None:
            bound = max(self._patience, SLACK * max(self._predicted.values(), default=0.0))
            standstill = now - max(self._moved, self._taken_since)
            if standstill > bound:
                return f"requests are open and no token came for {standstill:.0f} s"
        return None


def _since(before: float | None, count: int, now: float) -> float | None:
    if not count:
        return None
    return now if before is None else before
