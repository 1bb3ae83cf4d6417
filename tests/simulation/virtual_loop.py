"""An event loop whose time flies: it never waits, it jumps to the next timer.

Runs are deterministic as long as the code under test asks nothing but the loop for time. There
are no sockets, threads or signals in virtual time.
"""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class Deadlock(Exception):
    """Every task waits and no timer is set."""


class _Jumps:
    """Stands in for the selector: to wait is to move the clock."""

    def __init__(self) -> None:
        self.now = 0.0

    def select(self, timeout: float | None) -> list[Any]:
        if timeout is None:
            raise Deadlock
        self.now += max(timeout, 0.0)
        return []


class VirtualLoop(asyncio.BaseEventLoop):
    """A loop with a clock of its own that starts at 0."""

    def __init__(self) -> None:
        super().__init__()
        self._selector = _Jumps()
        # A timer is due when its time has come, whatever the sums of floats lost on the way.
        self._clock_resolution = 1e-9

    def time(self) -> float:
        return self._selector.now

    def _process_events(self, events: list[Any]) -> None:
        assert not events

    def _write_to_self(self) -> None:
        raise RuntimeError("a thread called into virtual time")


def run(main: Coroutine[Any, Any, T], limit: float = 3600.0) -> T:
    """The result of a coroutine run in virtual time, within `limit` virtual seconds."""

    async def bounded() -> T:
        async with asyncio.timeout(limit):
            return await main

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(bounded())
