"""What comes of an overload, one request after another, and the figures of it all."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import mean, quantiles
from typing import Literal

MAX_TRIES = 12
Returning = Literal["none", "probes", "all"]


def returns(returning: Returning, is_probe: bool) -> bool:
    """Whether a client comes back when it is told to."""
    return returning == "all" or (returning == "probes" and is_probe)


@dataclass
class Try:
    """One request of one client; seconds after the first one could come."""

    at: float
    is_probe: bool
    is_return: bool
    is_taken: bool = False
    """Whether it was accepted, and answered."""
    ttft: float = 0.0
    predicted: float | None = None
    after: float | None = None
    """Retry-After of a refusal."""
    received: float = 0.0
    """Seconds from its arrival until the router got it."""


@dataclass
class Result:
    """What happened."""

    tries: list[Try] = field(default_factory=list)
    busy: float = math.nan
    """Share of all instances' time that they computed, while requests came."""
    promises: int = 0
    """Held at once, at most."""
    waiting: int = 0
    """Without a plan, at most."""
    requests: int = 0
    """Taken in and not over, at most."""
    returning: float = math.nan
    """What the router thought at the end of who returns."""

    def errors(self, *, at_gateway: bool = True) -> list[float]:
        """|actual - predicted| / predicted of all accepted requests."""
        found = []
        for one in self.tries:
            if one.is_taken and one.predicted:
                actual = one.ttft - (0.0 if at_gateway else one.received)
                found.append(abs(actual - one.predicted) / one.predicted)
        return found

    @property
    def num_taken(self) -> int:
        """Accepted requests."""
        return sum(one.is_taken for one in self.tries)

    def probes(self, within: float = math.inf) -> list[bool]:
        """Of each return of a probe in that time: whether it was accepted."""
        back = [one for one in self.tries if one.is_probe and one.is_return]
        return [one.is_taken for one in back if one.at <= within]

    def share_of_returns(self) -> float:
        """Accepted returns of all returns of all clients."""
        back = [one.is_taken for one in self.tries if one.is_return]
        return mean(back) if back else math.nan

    def waits(self) -> list[float]:
        """All times that were given to those who were refused."""
        return [one.after or 0.0 for one in self.tries if not one.is_taken]


def percentile(values: Sequence[float], percent: int) -> float:
    """Of a sample; nan without one."""
    if len(values) < 2:
        return values[0] if values else math.nan
    return quantiles(values, n=100, method="inclusive")[percent - 1]


HEAD = (
    f"{'':34} {'cap/s':>6} {'taken':>6} {'asked':>6} {'err p50':>8} {'err p95':>8} {'door p95':>8} "
    f"{'probes':>9} {'in time':>9} {'returns':>8} {'busy':>6} {'promises':>8} {'after p50':>9} "
    f"{'max':>6} {'ttft max':>8}"
)


def line(name: str, capacity: float, seconds: float, result: Result) -> str:
    """One row of the table under HEAD."""
    back, soon, waits = result.probes(), result.probes(seconds), result.waits()
    exact, door = result.errors(at_gateway=False), result.errors()
    longest = max((one.ttft for one in result.tries), default=0.0)
    return (
        f"{name:34} {capacity:6.2f} {result.num_taken:6} {len(result.tries):6} "
        f"{percentile(exact, 50):8.1%} {percentile(exact, 95):8.1%} {percentile(door, 95):8.1%} "
        f"{sum(back):4}/{len(back):<4} {sum(soon):4}/{len(soon):<4} "
        f"{result.share_of_returns():8.1%} {result.busy:6.1%} {result.promises:8} "
        f"{percentile(waits, 50):9.1f} {max(waits, default=0.0):6.0f} {longest:8.1f}"
    )
