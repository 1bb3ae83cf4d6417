"""When a child that has ended by itself is started again."""

from collections import deque

DELAYS = (0.0, 0.5, 1.0, 2.0, 4.0, 5.0)
"""Seconds before the first start again, the second in a row, and so on."""
LONG_LIFE = 30.0
"""Seconds of life after which an end is the first in a row again."""
WINDOW = 60.0
MOST = 10
"""Ends within a window of so many seconds; one more, and it is of no use to go on.

Only lives of about a second end so often, the delays being what they are.
"""


class Restarts:
    """The ends of one child; times are seconds of any one clock."""

    def __init__(self) -> None:
        self._ends: deque[float] = deque(maxlen=MOST + 1)
        self._row = 0

    def delay(self, now: float, lived: float) -> float | None:
        """Take note of an end; seconds until the next start, None when it ends too often."""
        self._ends.append(now)
        if len(self._ends) > MOST and now - self._ends[0] <= WINDOW:
            return None
        if lived >= LONG_LIFE:
            self._row = 0
        delay = DELAYS[min(self._row, len(DELAYS) - 1)]
        self._row += 1
        return delay
