import math

import numpy as np
import pytest

from loadgen.arrival import Arrival
from loadgen.arrivals import draw_arrivals
from loadgen.lengths import Lengths, workload

SHORT = workload("short")


def gaps_of(arrivals: list[Arrival]) -> np.ndarray:
    return np.diff([0.0, *(arrival.at for arrival in arrivals)])


@pytest.mark.parametrize("cv", [0.5, 1.0, 2.0])
def test_gaps_have_the_mean_of_the_rate_and_the_variation_asked_for(cv: float) -> None:
    gaps = gaps_of(draw_arrivals(40_000, 2.5, SHORT, seed=3, cv=cv))
    assert gaps.min() >= 0
    assert gaps.mean() == pytest.approx(1 / 2.5, rel=4 * cv / math.sqrt(len(gaps)))
    assert gaps.std() / gaps.mean() == pytest.approx(cv, rel=0.05)


def test_gaps_are_those_of_a_poisson_process_by_default() -> None:
    gaps = np.sort(gaps_of(draw_arrivals(40_000, 2.0, SHORT)))
    seen = np.arange(1, len(gaps) + 1) / len(gaps)
    assert abs(seen - (1 - np.exp(-2.0 * gaps))).max() < 1.95 / math.sqrt(len(gaps))


def test_without_variation_requests_come_like_a_metronome() -> None:
    arrivals = draw_arrivals(4, 2.0, SHORT, cv=0)
    assert [arrival.at for arrival in arrivals] == [0.5, 1.0, 1.5, 2.0]


def test_another_rate_stretches_time_and_keeps_the_requests() -> None:
    slow, fast = (draw_arrivals(500, rate, SHORT, seed=7) for rate in (0.5, 4.0))
    assert [it[1:] for it in slow] == [it[1:] for it in fast]
    assert [it.at for it in slow] == pytest.approx([8 * it.at for it in fast])


def test_another_variation_or_output_keeps_the_prompts() -> None:
    usual = draw_arrivals(200, 1.0, SHORT)
    other = draw_arrivals(200, 1.0, SHORT, cv=3.0, outputs=Lengths(1, 2, 4, sigma=0.5))
    assert [it.length for it in usual] == [it.length for it in other]
    assert all(1 <= it.output <= 4 for it in other)


def test_a_longer_run_begins_with_the_shorter_one() -> None:
    assert draw_arrivals(300, 1.0, SHORT, cv=1.5)[:100] == draw_arrivals(100, 1.0, SHORT, cv=1.5)


def test_seeds_differ_and_repeat() -> None:
    one, again, other = (draw_arrivals(50, 1.0, SHORT, seed=seed) for seed in (1, 1, 2))
    assert one == again
    assert [it.length for it in one] != [it.length for it in other]
    assert [it.at for it in one] != [it.at for it in other]


def test_at_an_infinite_rate_all_come_at_once() -> None:
    assert {it.at for it in draw_arrivals(10, math.inf, SHORT)} == {0.0}


def test_no_requests_are_no_arrivals() -> None:
    assert draw_arrivals(0, 1.0, SHORT) == []


def test_numbers_are_plain_ones() -> None:
    (arrival,) = draw_arrivals(1, 1.0, SHORT)
    assert [type(number) for number in arrival] == [float, int, int]


@pytest.mark.parametrize(
    ("count", "rate", "seed", "cv", "message"),
    [
        (-1, 1.0, 0, 1.0, "count and seed"),
        (1, 1.0, -1, 1.0, "count and seed"),
        (1, 0.0, 0, 1.0, "rate must be above zero"),
        (1, math.nan, 0, 1.0, "rate must be above zero"),
        (1, 1.0, 0, -0.5, "cv must be finite"),
        (1, 1.0, 0, math.inf, "cv must be finite"),
        (1, 1.0, 0, math.nan, "cv must be finite"),
    ],
)
def test_numbers_out_of_range_are_refused(
    count: int, rate: float, seed: int, cv: float, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        draw_arrivals(count, rate, SHORT, seed=seed, cv=cv)


def test_hardly_any_burstiness_is_none():
    even = draw_arrivals(50, 2.0, SHORT, cv=0.0)
    for cv in (1e-7, 1e-160, 1e-200):
        assert draw_arrivals(50, 2.0, SHORT, cv=cv) == even
