"""In which order waiting requests start, and the worst TTFT of late that one such order looks at.

Pure; `now` is monotonic seconds.
"""

import math
from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

from common.latency import LatencyModel
from common.schedule import Pricing

MEMORY = 600.0
"""Seconds in which the memory of a bad TTFT fades to 1/e."""


class Waiting(Protocol):
    """What an order looks at."""

    @property
    def length(self) -> int:
        """Tokens to prefill."""

    @property
    def arrived(self) -> float:
        """Monotonic seconds."""

    @property
    def is_retry(self) -> bool:
        """Whether it has been accepted before: such go first, in every order."""


W = TypeVar("W", bound=Waiting)


class Tail:
    """The worst TTFT of late: a peak that fades."""

    def __init__(self) -> None:
        self._worst = 0.0
        self._seen = 0.0

    def note(self, ttft: float, now: float) -> None:
        """A request starts whose first token comes after `ttft` seconds in all."""
        self._worst = max(self.worst(now), ttft)
        self._seen = now

    def worst(self, now: float) -> float:
        """Seconds."""
        return self._worst * math.exp((self._seen - now) / MEMORY)


def ordered(
    queue: Sequence[W], pricing: Pricing, model: LatencyModel, worst: float, now: float
) -> Sequence[W]:
    """A queue in order of arrival, in the order in which its requests start.

    `arrival` leaves it alone. `slope:K` goes by arrival + K times the TTFT of that length in an
    empty cluster: a deadline. `tail:X` lets short prompts pass as long as that is harmless:
    whoever could not stay below X times the worst TTFT of late goes first, by arrival; the others
    go by their length. Long prompts are deferred when queues are short, which costs them little
    and all others gain by, but never at the peaks that make the tail.

    Args:
        queue: in order of arrival.
        pricing: with the order's name.
        model: for the TTFT in an empty cluster.
        worst: seconds, see `Tail`.
        now: seconds.
    """
    if len(queue) < 2 or pricing.order == "arrival":
        return queue
    slope, share = pricing.slope, pricing.share
    alone = model.fastest
    if slope is not None:
        return sorted(queue, key=_with_retries(lambda one: one.arrived + slope * alone(one.length)))
    limit = (share or 0.0) * worst

    def key(one: W) -> tuple[bool, float]:
        least = alone(one.length)
        is_urgent = now - one.arrived + least >= limit
        return (not is_urgent, one.arrived if is_urgent else least)

    return sorted(queue, key=_with_retries(key))


def _with_retries(key: Callable[[W], object]) -> Callable[[W], tuple[bool, object]]:
    return lambda one: (not one.is_retry, one.arrived if one.is_retry else key(one))
