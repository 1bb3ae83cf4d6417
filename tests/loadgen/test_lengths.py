import math

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from loadgen.lengths import MAX_SIGMA, MIN_SIGMA, OUTPUTS, WORKLOADS, Lengths, workload

STATISTICS = {
    "short": (4096, 24166.4, 97280, 0.49),
    "medium": (8192, 33587.2, 145408, 0.52),
    "long": (16384, 51302.4, 194560, 0.47),
}


def integrated_mean(lengths: Lengths) -> float:
    """The definition, with a density of the logarithm that is zero outside the range."""
    edges = math.log(lengths.minimum), math.log(lengths.maximum)
    x = np.linspace(*edges, 200_001)
    density = np.exp(-((x - lengths.mu) ** 2) / (2 * lengths.sigma**2))
    return float(np.trapezoid(np.exp(x) * density, x) / np.trapezoid(density, x))


@pytest.mark.parametrize("name", WORKLOADS)
def test_a_workload_has_the_statistics_of_the_specification(name: str) -> None:
    lengths = workload(name)
    assert (lengths.minimum, lengths.mean, lengths.maximum, lengths.sigma) == STATISTICS[name]


@pytest.mark.parametrize("lengths", [*map(workload, WORKLOADS), OUTPUTS], ids=repr)
def test_the_mean_holds_after_truncation(lengths: Lengths) -> None:
    assert integrated_mean(lengths) == pytest.approx(lengths.mean, rel=1e-8)


@pytest.mark.parametrize("sigma", [0.1, 0.3, 0.8, 1.5])
@pytest.mark.parametrize("name", WORKLOADS)
def test_another_spread_keeps_the_mean(name: str, sigma: float) -> None:
    lengths = workload(name, sigma)
    assert lengths.sigma == sigma
    assert integrated_mean(lengths) == pytest.approx(STATISTICS[name][1], rel=1e-8)


@settings(max_examples=50, deadline=None)
@given(
    minimum=st.integers(1, 10_000),
    width=st.integers(2, 1_000_000),
    share=st.floats(0.001, 0.999),
    sigma=st.floats(0.02, MAX_SIGMA),
)
def test_a_mean_is_met_or_refused(minimum: int, width: int, share: float, sigma: float) -> None:
    mean = minimum + share * width
    try:
        lengths = Lengths(minimum, mean, minimum + width, sigma)
    except ValueError:
        assume(False)
    assert integrated_mean(lengths) == pytest.approx(mean, rel=1e-6)


@pytest.mark.parametrize("name", WORKLOADS)
def test_draws_have_mean_range_and_distribution(name: str) -> None:
    lengths, count = workload(name), 200_000
    drawn = np.sort(lengths.draw(count, np.random.default_rng(11)))
    assert lengths.minimum <= drawn[0] <= drawn[-1] <= lengths.maximum
    assert abs(drawn.mean() - lengths.mean) < 3 * drawn.std() / math.sqrt(count)
    points = drawn[::500]
    below = np.searchsorted(drawn, points, side="right") / count
    distance = max(abs(below - [lengths.cdf(point + 0.5) for point in points]))
    assert distance < 1.95 / math.sqrt(count)  # Kolmogorov's bound at 0.1 %


def test_a_seed_gives_the_same_whole_numbers() -> None:
    one, other = (workload("short").draw(100, np.random.default_rng(5)) for _ in range(2))
    assert one == other
    assert all(isinstance(length, int) for length in one)


def test_draws_stay_in_a_range_that_cuts_both_tails() -> None:
    drawn = Lengths(10, 12, 14, sigma=3.0).draw(2000, np.random.default_rng(1))
    assert set(drawn) == set(range(10, 15))


def test_the_cdf_is_zero_below_the_range_and_one_above() -> None:
    lengths = workload("long")
    assert lengths.cdf(0) == lengths.cdf(lengths.minimum) == 0
    assert lengths.cdf(lengths.maximum) == lengths.cdf(1e9) == pytest.approx(1)


@pytest.mark.parametrize("sigma", [0.0, -1.0, MIN_SIGMA / 2, 2 * MAX_SIGMA, math.nan, math.inf])
def test_a_spread_out_of_bounds_is_refused(sigma: float) -> None:
    with pytest.raises(ValueError, match="sigma must be between"):
        workload("short", sigma)


def test_a_mean_that_no_such_spread_has_is_refused() -> None:
    with pytest.raises(ValueError, match=r"no log-normal with sigma 5.0 .* has mean 1001"):
        Lengths(1000, 1001, 1_000_000, sigma=5.0)


@pytest.mark.parametrize("numbers", [(0, 5, 9), (5, 5, 9), (5, 9, 9), (9, 6, 5), (1, math.nan, 9)])
def test_statistics_out_of_order_are_refused(numbers: tuple[int, float, int]) -> None:
    with pytest.raises(ValueError, match="need 0 < minimum < mean < maximum"):
        Lengths(*numbers, sigma=0.5)


def test_an_unknown_workload_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match="no workload 'huge'; there are short, medium, long"):
        workload("huge")
