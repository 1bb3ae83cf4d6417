"""Ends a process whose event loop hangs: a bug that nobody inside could report any more.

A thread counts its own ticks. A process that is stopped as a whole, or gets no processor, misses
its ticks as well and is left alone: only a loop that stands still while this thread runs is hung.
"""

import asyncio
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

TICK = 1.0
"""Seconds."""
LIMIT = 10
"""Ticks in a row within which the loop has to answer."""


class Pulse:
    """Counts the ticks since the loop was asked and has not answered."""

    def __init__(self, ask: Callable[[], None], limit: int = LIMIT) -> None:
        self._ask = ask
        self._limit = limit
        self._missed = 0
        self._is_answered = True

    def answer(self) -> None:
        """The loop is alive."""
        self._is_answered = True

    def tick(self) -> bool:
        """Let one tick pass; True whenever the loop has been silent for too many more."""
        if self._is_answered:
            self._is_answered, self._missed = False, 0
            self._ask()
            return False
        self._missed += 1
        return self._missed % self._limit == 0


@contextmanager
def watched(
    loop: asyncio.AbstractEventLoop, end: Callable[[str], None], tick: float
) -> Iterator[None]:
    """Have a thread call `end` with the place where `loop` hangs; enter it in the loop's thread.

    Args:
        loop: that may not hang.
        end: ends the process, in the watching thread, or lets the loop hang on.
        tick: seconds.
    """
    over, looped = threading.Event(), threading.get_ident()
    thread = threading.Thread(
        target=_watch,
        args=(loop, over, lambda: end(_place(looped)), tick),
        name="watchdog",
        daemon=True,
    )
    thread.start()
    try:
        yield
    finally:
        over.set()
        # It must not ask a loop that is closed.
        thread.join()


def _watch(
    loop: asyncio.AbstractEventLoop, over: threading.Event, end: Callable[[], None], tick: float
) -> None:
    pulse = Pulse(lambda: _ask(loop, pulse))
    while not over.wait(tick):
        if pulse.tick():
            end()


def _ask(loop: asyncio.AbstractEventLoop, pulse: Pulse) -> None:
    loop.call_soon_threadsafe(pulse.answer)


def _place(thread: int) -> str:
    """Where a thread is now, as `file:line in function`, nothing of its data."""
    frame = sys._current_frames().get(thread)
    if frame is None:
        return "an ended thread"
    return f"{frame.f_code.co_filename}:{frame.f_lineno} in {frame.f_code.co_qualname}"
