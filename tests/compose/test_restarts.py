from compose.restarts import Restarts


def delays(ends: list[tuple[float, float]]) -> list[float | None]:
    """What follows ends at these times after lives of these lengths."""
    restarts = Restarts()
    return [restarts.delay(now, lived) for now, lived in ends]


def test_the_first_start_is_at_once_and_later_ones_wait_longer():
    ends = [(20.0 * n, 15.0) for n in range(8)]
    assert delays(ends) == [0.0, 0.5, 1.0, 2.0, 4.0, 5.0, 5.0, 5.0]


def test_a_long_life_begins_the_row_anew():
    assert delays([(0.0, 1.0), (20.0, 19.0), (60.0, 30.0), (80.0, 20.0)]) == [0.0, 0.5, 0.0, 0.5]


def test_more_than_ten_ends_within_a_minute_are_too_many():
    assert delays([(float(n), 1.0) for n in range(11)])[-2:] == [5.0, None]
    assert delays([(6.0 * n, 1.0) for n in range(11)])[-1] is None
    assert delays([(6.1 * n, 1.0) for n in range(11)])[-1] == 5.0


def test_what_lives_for_some_seconds_is_started_for_ever():
    restarts, now = Restarts(), 0.0
    for _ in range(50):
        now += 4.0
        delay = restarts.delay(now, 4.0)
        assert delay is not None
        now += delay
