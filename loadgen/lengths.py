"""How long prompts and answers are: truncated log-normals with a given minimum, mean and maximum.

The specification gives these three statistics of its private traces and nothing else, so the
spread `sigma` is ours and everything that depends on it should be tried with another.
"""

import math
from statistics import NormalDist

import numpy as np

TOLERANCE = 1e-9
"""Relative error of a mean."""
MIN_SIGMA, MAX_SIGMA = 0.01, 5.0

_REACH = 4.0
"""How many sigmas outside the range the untruncated log-normal's middle may lie; enough mass is
left inside to compute with."""
_ROUNDS = 100
_NORMAL = NormalDist()


class Lengths:
    """Whole numbers of tokens, distributed as exp(N(mu, sigma²)) given minimum ≤ length ≤ maximum.

    `mu` is the one for which the mean holds after the truncation; `sigma` is of the logarithm
    before it.
    """

    def __init__(self, minimum: int, mean: float, maximum: int, sigma: float) -> None:
        """Solve for `mu`.

        Raises:
            ValueError: the three are not in order, or no log-normal of this spread has this mean.
        """
        if not 0 < minimum < mean < maximum < math.inf:
            raise ValueError(f"need 0 < minimum < mean < maximum, got {minimum}, {mean}, {maximum}")
        if not MIN_SIGMA <= sigma <= MAX_SIGMA:
            raise ValueError(f"sigma must be between {MIN_SIGMA} and {MAX_SIGMA}, got {sigma}")
        self.minimum = minimum
        self.mean = mean
        self.maximum = maximum
        self.sigma = sigma
        self.mu = self._solve()

    def __repr__(self) -> str:
        return f"Lengths({self.minimum}, {self.mean}, {self.maximum}, sigma={self.sigma})"

    def cdf(self, length: float) -> float:
        """The share of lengths up to this one, before they are rounded to whole tokens."""
        if length <= self.minimum:
            return 0.0
        low, high = self._edges(self.mu)
        here = (math.log(min(length, self.maximum)) - self.mu) / self.sigma
        return _mass(low, here) / _mass(low, high)

    def draw(self, count: int, rng: np.random.Generator) -> list[int]:
        """One uniform number of `rng` for each length."""
        return [self._quantile(share) for share in rng.random(count).tolist()]

    def _quantile(self, share: float) -> int:
        low, high = self._edges(self.mu)
        z = _NORMAL.inv_cdf(_NORMAL.cdf(low) + share * _mass(low, high))
        length = round(math.exp(self.mu + self.sigma * z))
        return min(max(length, self.minimum), self.maximum)

    def _edges(self, mu: float) -> tuple[float, float]:
        low = (math.log(self.minimum) - mu) / self.sigma
        high = (math.log(self.maximum) - mu) / self.sigma
        return low, high

    def _mean(self, mu: float) -> float:
        low, high = self._edges(mu)
        inside = _mass(low - self.sigma, high - self.sigma) / _mass(low, high)
        return math.exp(mu + self.sigma**2 / 2) * inside

    def _solve(self) -> float:
        """The truncated mean grows with `mu`: bisect."""
        low = math.log(self.minimum) - _REACH * self.sigma
        high = math.log(self.maximum) + _REACH * self.sigma
        for _ in range(_ROUNDS):
            middle = (low + high) / 2
            low, high = (middle, high) if self._mean(middle) < self.mean else (low, middle)
        mu = (low + high) / 2
        if abs(self._mean(mu) / self.mean - 1) > TOLERANCE:
            raise ValueError(
                f"no log-normal with sigma {self.sigma} between {self.minimum} and {self.maximum}"
                f" has mean {self.mean}"
            )
        return mu


def _mass(low: float, high: float) -> float:
    """How likely a standard normal variable falls between the two.

    With erfc on the side where it is small, so that a tail keeps its digits.
    """
    if low > 0:
        low, high = -high, -low
    return (math.erfc(-high / math.sqrt(2)) - math.erfc(-low / math.sqrt(2))) / 2


_K = 1024
_STATISTICS = {
    "short": (4 * _K, 23.6 * _K, 95 * _K, 0.49),
    "medium": (8 * _K, 32.8 * _K, 142 * _K, 0.52),
    "long": (16 * _K, 50.1 * _K, 190 * _K, 0.47),
}
WORKLOADS = tuple(_STATISTICS)
OUTPUTS = Lengths(1, 256, 2048, sigma=0.8)
"""Answers, of which the specification says nothing: as long on average as those of public traces
(Azure's conversations 211, Mooncake's 343 tokens, none above 2,000)."""


def workload(name: str, sigma: float | None = None) -> Lengths:
    """Prompt lengths of one of the three WORKLOADS, with another spread if one is given.

    Raises:
        ValueError: no such workload, or its mean cannot be met with this spread.

    Source:
        Specification, section 9; 1k is 1,024 tokens.
    """
    if name not in _STATISTICS:
        raise ValueError(f"no workload '{name}'; there are {', '.join(WORKLOADS)}")
    minimum, mean, maximum, usual = _STATISTICS[name]
    return Lengths(minimum, mean, maximum, usual if sigma is None else sigma)
