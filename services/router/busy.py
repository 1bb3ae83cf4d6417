"""Which share of its time each prefill instance has computed. Pure; `now` is monotonic seconds.

What a member tells of a chunk that is done is exact; a chunk that runs counts from when its group
had come. No moment counts twice.
"""

import math
from collections.abc import Mapping

from common.messages import ChunkDone


class Busy:
    """Seconds of computing since the last `shares`."""

    def __init__(self) -> None:
        self._since = math.inf
        self._seconds: dict[str, float] = {}
        self._counted: dict[str, float] = {}
        """Until when each instance's time is among the seconds."""

    def done(self, done: ChunkDone, now: float) -> None:
        """A member has computed its part of a chunk, just now."""
        own = done.compute + done.balance + done.wait - done.gather
        self._count(done.name, now - own, now)

    def shares(self, computing: Mapping[str, float], now: float) -> dict[str, float]:
        """The shares since the last time; none are told at the first time.

        Args:
            computing: since when each instance has been at the chunk that it runs.
            now: seconds.
        """
        for name, since in computing.items():
            self._count(name, since, now)
        passed, seconds = now - self._since, self._seconds
        self._since, self._seconds = now, {}
        # What was counted before now counts as nothing from here on.
        self._counted = {}
        return {name: min(1.0, one / passed) for name, one in seconds.items() if passed > 0}

    def _count(self, name: str, start: float, end: float) -> None:
        start = max(start, self._since, self._counted.get(name, start))
        if end > start:
            self._seconds[name] = self._seconds.get(name, 0.0) + end - start
            self._counted[name] = end
