"""The order in which a member executes: turn by turn, without gaps.

Pure. Turns come from one life of the router, numbered densely from 1. What came early waits;
what came twice is dropped; a gap holds everything behind it back until the router has sent it
again.
"""

from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")

MAX_AHEAD = 4096
"""Turns that may wait beyond the last finished one; the router repeats what is not taken."""


class Turns(Generic[T]):
    """Work of one member by turn; `None` is a turn that is void."""

    def __init__(self) -> None:
        self.epoch = 0
        self.received_through = 0
        """All turns up to this one have been received."""
        self.finished_through = 0
        """All turns up to this one have been executed or were void."""
        self._waiting: dict[int, T | None] = {}
        self._running: int | None = None

    def enter(self, epoch: int) -> bool:
        """Follow a life of the router; a new one voids all that waits. False for an old one."""
        if epoch > self.epoch:
            self.epoch = epoch
            self.received_through = self.finished_through = 0
            self._waiting.clear()
            self._running = None
        return epoch == self.epoch

    def add(self, turn: int, work: T | None) -> bool:
        """Take a turn of this epoch; False when it was known or lies too far ahead."""
        known = turn <= self.received_through or turn in self._waiting
        if known or turn > self.finished_through + MAX_AHEAD:
            return False
        self._waiting[turn] = work
        while self.received_through + 1 in self._waiting:
            self.received_through += 1
        return True

    def next(self) -> T | None:
        """Start the next turn; None when it has not come or another one runs."""
        while self._running is None and self.finished_through + 1 in self._waiting:
            turn = self.finished_through + 1
            work = self._waiting.pop(turn)
            if work is not None:
                self._running = turn
                return work
            self.finished_through = turn
        return None

    def finish(self, epoch: int, turn: int) -> None:
        """A turn has been executed; of an older epoch it no longer counts."""
        if epoch == self.epoch and turn == self._running:
            self.finished_through = turn
            self._running = None

    def void(self, is_void: Callable[[T], bool]) -> None:
        """Turn waiting work that nobody wants any more into void turns."""
        for turn, work in self._waiting.items():
            if work is not None and is_void(work):
                self._waiting[turn] = None
