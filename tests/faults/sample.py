"""What every process of a mesh takes over time, and how fast it grows."""

import threading
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from tests.faults import control
from tests.faults.arena import Arena
from tests.faults.quiescence import Footprint, footprint

EVERY = 5.0
"""Seconds between two samples."""
SHORTEST = 12
"""Samples of a life from which its growth is told."""
SETTLED = 0.25
"""Share of a life that is its start: caches and pools fill, which is no leak."""


@dataclass(frozen=True)
class Sample:
    """One look at a mesh, `at` seconds after the start."""

    at: float
    open: int
    in_use: dict[str, float]
    processes: dict[tuple[str, int], Footprint]
    """By name and process id."""


@dataclass
class Sampler:
    """Looks every few seconds, in a thread, until stopped."""

    arena: Arena
    num_open: Callable[[], int]
    samples: list[Sample] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._over = threading.Event()
        self._started = time.monotonic()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def stop(self) -> list[Sample]:
        """All samples."""
        self._over.set()
        self._thread.join()
        return self.samples

    def _run(self) -> None:
        while not self._over.wait(EVERY):
            self.samples.append(self._look())

    def _look(self) -> Sample:
        mesh = self.arena.mesh
        taken = {(name, pid): footprint(pid) for name, pid in mesh.pids().items()}
        return Sample(
            time.monotonic() - self._started,
            self.num_open(),
            control.figures(mesh.url, "tetris_mesh_in_use"),
            {life: found for life, found in taken.items() if found is not None},
        )


def slope(points: Sequence[tuple[float, float]]) -> float:
    """Least squares: how much y grows for each unit of x."""
    n = len(points)
    mean_x, mean_y = sum(x for x, _ in points) / n, sum(y for _, y in points) / n
    spread = sum((x - mean_x) ** 2 for x, _ in points)
    return sum((x - mean_x) * (y - mean_y) for x, y in points) / spread if spread else 0.0


def growth(samples: Sequence[Sample]) -> dict[tuple[str, int], float]:
    """MB per hour of each life that was seen long enough, without its start."""
    lives: dict[tuple[str, int], list[tuple[float, float]]] = defaultdict(list)
    for sample in samples:
        for life, taken in sample.processes.items():
            lives[life].append((sample.at / 3600, taken.rss / 1e6))
    return {
        life: slope(points[int(SETTLED * len(points)) :])
        for life, points in lives.items()
        if len(points) >= SHORTEST
    }
