"""What else the machine does while a benchmark runs, from the kernel's own counters."""

import os
import time
from collections.abc import Iterable
from pathlib import Path

TICKS = os.sysconf("SC_CLK_TCK")
IDLE, IOWAIT, STEAL = 3, 4, 7


class Watch:
    """Counts from its making on, beside processes that live all that time."""

    def __init__(self, ours: Iterable[int]) -> None:
        self._ours = [os.getpid(), *ours]
        self._began = time.monotonic()
        self._before = self._foreign()

    def others(self) -> float:
        """Cores that everybody else has used on average, the hypervisor's share included."""
        return (self._foreign() - self._before) / max(time.monotonic() - self._began, 1 / TICKS)

    def _foreign(self) -> float:
        return _machine() - sum(map(_process, self._ours))


def _machine() -> float:
    """Seconds that cores have not been idle, summed up."""
    counted = Path("/proc/stat").read_text().splitlines()[0].split()[1 : STEAL + 2]
    return sum(int(n) for i, n in enumerate(counted) if i not in (IDLE, IOWAIT)) / TICKS


def _process(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS
