"""What else the machine does while a benchmark runs, from the kernel's own counters."""

import os
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple, TypeVar

TICKS = os.sysconf("SC_CLK_TCK")
IDLE, IOWAIT, STEAL = 3, 4, 7
LOOK = 3.0
"""Seconds that the machine has to be quiet before something is timed."""

T = TypeVar("T")


class Watch:
    """Counts from its making on, beside processes that live all that time."""

    def __init__(self, ours: Iterable[int] = ()) -> None:
        self._ours = [os.getpid(), *ours]
        self._began = time.monotonic()
        self._before = self._foreign()

    def others(self) -> float:
        """Cores that everybody else has used on average, the hypervisor's share included."""
        return (self._foreign() - self._before) / max(time.monotonic() - self._began, 1 / TICKS)

    def _foreign(self) -> float:
        return _machine() - sum(map(_process, self._ours))


class Noise(NamedTuple):
    """Cores that others may use; seconds to wait in all for a machine that is so quiet."""

    cores: float
    patience: float


class Quiet:
    """Has things done again and again until others have let the machine alone meanwhile."""

    def __init__(self, noise: Noise) -> None:
        self._noise = noise
        self._deadline = time.monotonic() + noise.patience

    def take(self, ours: Iterable[int], work: Callable[[], T]) -> tuple[T, float]:
        """What came of `work` when it was not disturbed, and the cores that others used.

        Args:
            ours: processes that take part in it.
            work: may be called any number of times.
        """
        pids = tuple(ours)
        while True:
            self._await(pids)
            watch = Watch(pids)
            result, others = work(), watch.others()
            if others <= self._noise.cores:
                return result, others
            _say(f"(others used {others:.2f} cores: once more)")

    def _await(self, pids: tuple[int, ...]) -> None:
        told = False
        while True:
            watch = Watch(pids)
            time.sleep(LOOK)
            if (others := watch.others()) <= self._noise.cores:
                return
            if time.monotonic() > self._deadline:
                _say(f"others use {others:.2f} cores all the time: no figures under such a load")
                raise SystemExit(2)
            if not told:
                _say(f"(others use {others:.2f} cores: waiting)")
                told = True


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def _machine() -> float:
    """Seconds that cores have not been idle, summed up."""
    counted = Path("/proc/stat").read_text().splitlines()[0].split()[1 : STEAL + 2]
    return sum(int(n) for i, n in enumerate(counted) if i not in (IDLE, IOWAIT)) / TICKS


def _process(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS
