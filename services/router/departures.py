"""How long slots stay taken after the first token, learnt from those that came free.

Pure; moments are monotonic seconds.
"""

from common.pages import Owner

MAX_KNOWN = 16_384
"""Hand-overs under way that are remembered."""
PER_TOKEN = 0.02
"""Seconds that decode takes for a token, until the first answers are over."""
WEIGHT = 1 / 16
"""Of the newest one among all that were seen."""


class Departures:
    """Of prefill slots, by hand-over, and of decode slots, by the end of the answer."""

    def __init__(self) -> None:
        self.handover = 0.0
        """Seconds from the end of its last chunk until an instance holds nothing of a request."""
        self._seconds, self._tokens = PER_TOKEN, 1.0
        """From the first token to the end of the answer, and how long it might have been."""
        self._computed: dict[tuple[Owner, str], float] = {}

    def computed(self, owner: Owner, name: str, now: float) -> None:
        """An instance has done a chunk, the last one or not."""
        self._computed[owner, name] = now
        if len(self._computed) > MAX_KNOWN:
            del self._computed[next(iter(self._computed))]

    def released(self, owner: Owner, name: str, now: float) -> None:
        """An instance holds nothing of a request any more."""
        since = self._computed.pop((owner, name), None)
        if since is not None:
            self.handover += WEIGHT * (now - since - self.handover)

    def answered(self, seconds: float, max_tokens: int) -> None:
        """An answer is over, so long after its first token was to come."""
        self._seconds += WEIGHT * (max(0.0, seconds) - self._seconds)
        self._tokens += WEIGHT * (max_tokens - self._tokens)

    def since(self, owner: Owner, name: str) -> float | None:
        """When an instance did its last chunk of a request."""
        return self._computed.get((owner, name))

    def stay(self, max_tokens: int) -> float:
        """Seconds that decode keeps a request."""
        return self._seconds / self._tokens * max_tokens
