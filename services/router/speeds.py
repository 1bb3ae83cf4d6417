"""Which prefill instances are slow, as next to a noisy neighbour, and are planned around. Pure.

An instance's factor is how many times the predicted seconds its own work takes. What slows all
instances down is the latency model's to learn, so a factor counts against the usual one.
"""

from collections import deque
from collections.abc import Collection, Iterable

from common.latency import LatencyModel
from services.router.measuring import Measured

CHUNKS = 3
"""Chunks in a row that make an instance slow; one that is not makes it usual again."""
SLOW = 2.0
"""Times the usual factor above which an instance is slow."""
PROBE = 15.0
"""Seconds after which a slow instance is tried again."""


class Speeds:
    """The last chunks of every instance, judged by the latency model in force."""

    def __init__(self) -> None:
        self.slow: frozenset[str] = frozenset()
        self._chunks: dict[str, deque[Measured]] = {}
        self._factors: dict[str, list[float]] = {}
        self._tried: dict[str, float] = {}

    def take(self, measured: Measured, model: LatencyModel, now: float) -> None:
        """A chunk was computed."""
        for name in measured.computes:
            self._chunks.setdefault(name, deque(maxlen=CHUNKS)).append(measured)
            self._tried[name] = now
        self.judge(model)

    def leave(self, name: str) -> None:
        """An instance is gone."""
        for books in (self._chunks, self._factors, self._tried):
            books.pop(name, None)
        self.slow -= {name}

    def judge(self, model: LatencyModel) -> None:
        """See who is slow by this model."""
        self._factors = {
            name: [one.own_ratio(name, model) for one in chunks]
            for name, chunks in self._chunks.items()
        }
        limit, known = SLOW * self._usual(), self._factors.items()
        slow = [name for name, last in known if len(last) == CHUNKS and min(last) > limit]
        self.slow = frozenset(slow)

    def factor(self, name: str) -> float:
        """How many times the usual seconds an instance takes; 1 as long as nobody knows."""
        factors = self._factors.get(name)
        return _middle(factors) / self._usual() if factors else 1.0

    def usable(self, names: Collection[str]) -> frozenset[str]:
        """Those that are not slow; all, when all are."""
        return frozenset(names) - self.slow or frozenset(names)

    def due(self, now: float) -> list[str]:
        """Slow instances that have not been tried for a while."""
        return sorted(name for name in self.slow if now - self._tried[name] >= PROBE)

    def tried(self, name: str, now: float) -> None:
        """An instance is being tried."""
        self._tried[name] = now

    def _usual(self) -> float:
        return _middle(map(_middle, self._factors.values())) if self._factors else 1.0


def _middle(values: Iterable[float]) -> float:
    """The median; of an even number the lower one, so that of two the faster is the usual."""
    found = sorted(values)
    return found[(len(found) - 1) // 2]
