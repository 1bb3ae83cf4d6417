"""Requests that come at random: gaps of a gamma process, lengths of a distribution. Pure.

Gaps, lengths and outputs are drawn from three streams of the seed. So another rate only stretches
time, and whatever is compared is compared on the same requests; a longer run begins with all
requests of a shorter one.
"""

import math

import numpy as np
from numpy.typing import NDArray

from loadgen.arrival import Arrival
from loadgen.lengths import OUTPUTS, Lengths

TINY = 1e-6
"""A coefficient of variation that nobody can tell from 0, and a gamma's shape can."""


def draw_arrivals(
    count: int,
    rate: float,
    lengths: Lengths,
    *,
    seed: int = 0,
    cv: float = 1.0,
    outputs: Lengths = OUTPUTS,
) -> list[Arrival]:
    """Requests in order of arrival, the first after a first gap.

    Args:
        count: how many requests.
        rate: requests per second; an infinite one sends all at once.
        lengths: of the prompts.
        seed: not negative; the same one gives the same requests.
        cv: coefficient of variation of the gaps: 1 is Poisson, 0 a metronome, more is bursty.
        outputs: lengths of the answers.

    Raises:
        ValueError: a number out of its range.
    """
    if count < 0 or seed < 0:
        raise ValueError(f"count and seed must not be negative, got {count} and {seed}")
    if not rate > 0:
        raise ValueError(f"rate must be above zero, got {rate}")
    if not 0 <= cv < math.inf:
        raise ValueError(f"cv must be finite and not negative, got {cv}")
    gaps, prompts, answers = map(np.random.default_rng, np.random.SeedSequence(seed).spawn(3))
    times = np.cumsum(_unit_gaps(count, cv, gaps)) / rate
    drawn = zip(
        times.tolist(), lengths.draw(count, prompts), outputs.draw(count, answers), strict=True
    )
    return [Arrival(*request) for request in drawn]


def _unit_gaps(count: int, cv: float, rng: np.random.Generator) -> NDArray[np.float64]:
    """Gamma with mean 1: shape k = 1/cv², scale cv²."""
    if cv < TINY:
        return np.ones(count)
    return rng.standard_gamma(1 / cv**2, count) * cv**2
