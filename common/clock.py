"""Time as an argument: services ask a `Clock`, so that simulations can own it."""

import asyncio
import time
from typing import Protocol


class Clock(Protocol):
    """Monotonic seconds and a way to let them pass."""

    def now(self) -> float:
        """Seconds since an arbitrary moment; never goes back."""

    def wall(self) -> float:
        """Seconds since 1970, to compare moments of several machines."""

    async def sleep(self, seconds: float) -> None:
        """Let other tasks run for so long."""


class MonotonicClock:
    """The machine's clock, finer than uvloop's own, which counts whole milliseconds."""

    def now(self) -> float:
        """Seconds of `time.monotonic`."""
        return time.monotonic()

    def wall(self) -> float:
        """Seconds of `time.time`."""
        return time.time()  # noqa: TID251  # moments of several machines

    async def sleep(self, seconds: float) -> None:
        """`asyncio.sleep`."""
        await asyncio.sleep(seconds)


class LoopClock:
    """The running loop's time, which a virtual loop may let fly."""

    def now(self) -> float:
        """Seconds of the running loop."""
        return asyncio.get_running_loop().time()

    def wall(self) -> float:
        """The same: all machines of a simulation are as old as its loop."""
        return asyncio.get_running_loop().time()

    async def sleep(self, seconds: float) -> None:
        """`asyncio.sleep`, in the loop's time."""
        await asyncio.sleep(seconds)
