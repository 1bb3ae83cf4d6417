"""An event loop whose time flies: it never waits, it jumps to the next timer.

Runs are deterministic as long as the code under test asks nothing but the loop for time. There
are no sockets, threads or signals in virtual time.

Every callback belongs to the `Life` in whose context it was made, or to none. While a life is
frozen none of its callbacks runs: its timers, its tasks and its messages stand still, as those of
a process that was sent SIGSTOP, and come out all at once after the thaw.
"""

import asyncio
import heapq
from collections.abc import Callable, Coroutine
from contextvars import Context, ContextVar, copy_context
from typing import Any, TypeVar, cast

T = TypeVar("T")


class Deadlock(Exception):
    """Every task waits and no timer is set."""


class Life:
    """One life of an emulated process; what is to run in it is started with its `context`."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.is_dead = False
        """Whether nothing that it still does may be seen by anybody else."""
        self.context = copy_context()
        self.context.run(_LIFE.set, self)
        self._is_frozen = False
        self._parked: list[asyncio.Handle] = []

    @property
    def is_frozen(self) -> bool:
        """Whether it stands still."""
        return self._is_frozen

    def freeze(self) -> None:
        """Let nothing of it run from now on."""
        self._is_frozen = True

    def thaw(self) -> None:
        """Let it go on, first with all that came due meanwhile."""
        self._is_frozen = False
        loop = cast(VirtualLoop, asyncio.get_running_loop())
        loop.resume(self._parked)
        self._parked = []

    def park(self, handle: asyncio.Handle) -> bool:
        """Keep a callback back; False when it may run."""
        if self._is_frozen:
            self._parked.append(handle)
        return self._is_frozen


_LIFE: ContextVar[Life | None] = ContextVar("life", default=None)


def current_life() -> Life | None:
    """The life whose code runs now."""
    return _LIFE.get()


class _Handle(asyncio.Handle):
    def _run(self) -> None:
        life = self._context.get(_LIFE)
        if life is None or not life.park(self):
            super()._run()


class _TimerHandle(asyncio.TimerHandle):
    def _run(self) -> None:
        life = self._context.get(_LIFE)
        if life is None or not life.park(self):
            super()._run()


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

    def call_at(
        self,
        when: float,
        callback: Callable[..., object],
        *args: Any,
        context: Context | None = None,
    ) -> asyncio.TimerHandle:
        timer = _TimerHandle(when, callback, args, self, context)
        heapq.heappush(self._scheduled, timer)
        timer._scheduled = True
        return timer

    def resume(self, handles: list[asyncio.Handle]) -> None:
        """Run what was parked, in its order."""
        self._ready.extend(handles)

    def _call_soon(
        self, callback: Callable[..., object], args: Any, context: Context | None
    ) -> asyncio.Handle:
        handle = _Handle(callback, args, self, context)
        self._ready.append(handle)
        return handle

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
