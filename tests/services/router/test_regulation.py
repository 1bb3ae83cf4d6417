import pytest
from msgspec import structs

from common.schedule import Schedule
from services.router.regulation import Regulation, nearest

SCHEDULE = Schedule(
    improvement_rate=0.1,
    improvement_rate_mapping={"0.5": 0.05, "1": 0.3, "2": 0.7},
    improvement_rate_update_period=10.0,
)


def arrivals(regulation: Regulation, start: float, count: int, period: float = 10.0) -> None:
    for index in range(count):
        regulation.arrive(start + period * index / count)


def test_the_initial_rate_holds_until_the_first_period_is_over():
    regulation = Regulation(SCHEDULE)
    arrivals(regulation, 100.0, 20)
    assert regulation.load is None
    assert regulation.rate(109.9) == 0.1
    assert regulation.rate(110.0) == 0.7
    assert regulation.load == 2.0


def test_the_rate_of_the_nearest_load_is_taken():
    mapping = {0.5: 0.05, 1.0: 0.3, 2.0: 0.7}
    found = [nearest(mapping, load) for load in (0.0, 0.74, 0.75, 0.76, 1.49, 1.51, 99.0)]
    # Exactly between two loads the smaller one decides.
    assert found == [0.05, 0.05, 0.05, 0.3, 0.3, 0.7, 0.7]


def test_every_period_counts_anew_and_silence_is_no_load():
    regulation = Regulation(SCHEDULE)
    arrivals(regulation, 0.0, 20)
    arrivals(regulation, 10.0, 10)
    assert regulation.rate(20.0) == 0.3
    # Two whole periods without anybody.
    assert regulation.rate(45.0) == 0.05
    assert regulation.load == 0.0
    arrivals(regulation, 45.0, 20, period=5.0)
    assert regulation.rate(50.0) == 0.7


def test_an_update_keeps_what_was_counted():
    regulation = Regulation(SCHEDULE)
    arrivals(regulation, 0.0, 10)
    regulation.update(Schedule(improvement_rate_mapping={"1": 0.5}, improvement_rate=0.2))
    assert regulation.rate(9.0) == 0.2
    # The period is 30 s now: ten arrivals in it.
    assert regulation.rate(30.0) == 0.5
    assert regulation.load == pytest.approx(1 / 3)


def test_a_shorter_period_begins_anew_and_the_load_stays_until_it_is_over():
    regulation = Regulation(SCHEDULE)
    arrivals(regulation, 0.0, 20)
    arrivals(regulation, 10.0, 9, period=9.0)
    regulation.update(structs.replace(SCHEDULE, improvement_rate_update_period=2.0))
    assert regulation.rate(19.0) == 0.7
    arrivals(regulation, 19.0, 2, period=2.0)
    assert regulation.rate(20.9) == 0.7
    assert regulation.rate(21.0) == 0.3


def test_without_a_mapping_the_rate_never_changes():
    regulation = Regulation(Schedule(improvement_rate=0.25))
    arrivals(regulation, 0.0, 1000)
    assert regulation.rate(1e6) == 0.25
