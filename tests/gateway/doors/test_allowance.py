import pytest

from gateway.doors.allowance import Allowance


def test_a_minutes_worth_at_once_then_one_by_one() -> None:
    allowance = Allowance(60, now=100.0)
    assert [allowance.take(100.0) for _ in range(60)] == [0.0] * 60
    assert allowance.take(100.0) == pytest.approx(1.0)
    assert allowance.take(100.75) == pytest.approx(0.25)
    assert allowance.take(101.0) == 0.0
    assert allowance.take(101.0) == pytest.approx(1.0)


def test_waiting_longer_than_a_minute_saves_nothing_more() -> None:
    allowance = Allowance(2, now=0.0)
    assert [allowance.take(1e6) for _ in range(2)] == [0.0, 0.0]
    assert allowance.take(1e6) == pytest.approx(30.0)
