import asyncio

import pytest

from common.pace import Pace


class Late:
    """A clock whose sleeps all take so much longer; `time` goes on by hand, too."""

    def __init__(self, by: float) -> None:
        self.time = 100.0
        self.slept: list[float] = []
        self._by = by

    def now(self) -> float:
        return self.time

    def wall(self) -> float:
        return self.time

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.time += seconds + self._by


def spend(clock: Late, *durations: float) -> None:
    async def all_of_them() -> None:
        pace = Pace(clock)
        for seconds in durations:
            await pace.spend(seconds)

    asyncio.run(all_of_them())


def test_durations_after_one_another_add_up_whatever_the_timers_do():
    clock = Late(0.003)
    spend(clock, *[0.01] * 100)
    assert clock.time == pytest.approx(101.0 + 0.003)


def test_what_came_too_early_is_made_good_too():
    clock = Late(-0.0005)
    spend(clock, *[0.0106] * 100)
    assert clock.time == pytest.approx(101.06 - 0.0005)


def test_exact_timers_are_left_as_they_are():
    clock = Late(0.0)
    spend(clock, 0.5, 0.25)
    assert clock.slept == [0.5, 0.25]


def test_a_long_stop_is_not_made_good_by_many_steps_without_any_time():
    clock = Late(5.0)
    spend(clock, 0.01, 0.01, 0.01)
    assert clock.slept == pytest.approx([0.01, 0.0, 0.0])
    clock = Late(5.0)

    async def after_the_stop() -> None:
        pace = Pace(clock)
        await pace.spend(0.01)
        clock._by = 0.0
        await pace.spend(0.01)
        await pace.spend(0.01)

    asyncio.run(after_the_stop())
    assert clock.slept == pytest.approx([0.01, 0.0, 0.01])
