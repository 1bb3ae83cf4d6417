import pytest

from tests.faults.sample import slope


def test_the_slope_is_that_of_the_least_squares() -> None:
    assert slope([(0.0, 1.0), (1.0, 3.0), (2.0, 5.0)]) == pytest.approx(2.0)
    assert slope([(0.0, 0.0), (1.0, 1.0), (2.0, 0.0)]) == pytest.approx(0.0)
    assert slope([(1.0, 7.0)]) == 0.0
