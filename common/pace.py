"""Durations that add up: what a timer woke up too late is taken off the next one."""

from common.clock import Clock


class Pace:
    """Lets emulated seconds pass, one duration after the other.

    Timers of an event loop count in milliseconds and come when the loop gets to them; over many
    steps in a row that would be a percentage. Work between two durations takes its time besides.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._late = 0.0

    async def spend(self, seconds: float) -> None:
        """Let so many seconds pass, less those that the last call took too long, or more."""
        due = self._clock.now() + seconds - self._late
        await self._clock.sleep(max(0.0, due - self._clock.now()))
        # At most as much as could be made good: a loop that stood still for long did stand still.
        self._late = min(self._clock.now() - due, seconds)
