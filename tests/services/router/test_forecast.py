from collections import deque
from dataclasses import dataclass

import pytest

from common.latency import LatencyModel
from common.schedule import Pricing, Schedule
from services.router.forecast import Forecast, Needs, Release, Room
from services.router.memory import single_chunk_slots
from services.router.plan import PoolView
from services.router.scheduler import Scheduler

A100 = LatencyModel.load("a100-llama3-8b")
MANY = 10**9
ONE = Schedule(policy="fixed-sp:1")
LATE = Schedule(policy="cdsp-priced", priced=Pricing(order="arrival"))


@dataclass
class Waiting:
    length: int
    arrived: float = 0.0
    is_retry: bool = False
    forced: str | None = None
    size: int | None = None


def view_of(*delays):
    names = tuple(f"p{index}" for index in range(len(delays)))
    return PoolView(names, ("n",) * len(delays), delays)


def forecast_of(
    delays, schedule=ONE, prefill=MANY, decode=MANY, releases=(), now=0.0, slots=100, waiting=0
):
    view = view_of(*delays)
    room = Room(dict.fromkeys(view.names, prefill), {"d": decode}, lambda: releases)
    needs = Needs(lambda job: slots, 0.5, lambda job: 2.0)
    return Forecast(Scheduler(schedule, A100), (view, now), room, needs, waiting)


def seconds(length, size=1):
    return A100.predict(size, 0, length)


def test_with_room_a_newcomer_is_planned_on_the_instances_as_they_are():
    forecast = forecast_of((3.0, 1.0), now=10.0)
    expected = forecast.expect(Waiting(8000), 10.0)
    assert expected.at == pytest.approx(11.0 + seconds(8000))
    assert expected.plan.members == ("p1",)
    assert expected.work == pytest.approx(seconds(8000) / 2)
    # It is only a thought.
    assert forecast.expect(Waiting(8000), 10.0) == expected


def test_everybody_waits_for_those_before_him():
    forecast = forecast_of((0.0, 0.0))
    forecast.fold([Waiting(8000), Waiting(8000), Waiting(8000)])
    expected = forecast.expect(Waiting(4000), 0.0)
    assert expected.at == pytest.approx(seconds(8000) + seconds(4000))


def test_a_thought_gets_no_younger_than_the_question():
    forecast = forecast_of((3.0,), now=10.0)
    assert forecast.expect(Waiting(8000), 12.0).at == pytest.approx(13.0 + seconds(8000))
    assert forecast.expect(Waiting(8000), 20.0).at == pytest.approx(20.0 + seconds(8000))


def test_whoever_has_no_room_waits_until_enough_comes_free():
    need = single_chunk_slots(8000, 1)
    releases = [Release(4.0, "p0", need // 2), Release(9.0, "p0", need), Release(50.0, "p0", need)]
    forecast = forecast_of((1.0,), prefill=need // 4, releases=releases)
    assert forecast.expect(Waiting(8000), 0.0).at == pytest.approx(9.0 + seconds(8000))
    assert forecast.expect(Waiting(2000), 0.0).at == pytest.approx(1.0 + seconds(2000))


def test_whoever_has_no_room_holds_up_those_behind_him():
    need = single_chunk_slots(8000, 1)
    forecast = forecast_of((0.0,), prefill=need - 1, releases=[Release(9.0, "p0", need)])
    forecast.fold([Waiting(8000)])
    assert forecast.expect(Waiting(100), 0.0).at == pytest.approx(
        9.0 + seconds(8000) + seconds(100)
    )


def test_those_who_are_booked_give_their_slots_back_after_the_hand_over():
    need = single_chunk_slots(8000, 1)
    forecast = forecast_of((0.0,), prefill=need)
    forecast.fold([Waiting(8000)])
    first = seconds(8000)
    assert forecast.expect(Waiting(8000), 0.0).at == pytest.approx(first + 0.5 + seconds(8000))


def test_decode_has_to_have_room_as_well():
    releases = [Release(2.0, "d", 40), Release(6.0, "d", 40)]
    forecast = forecast_of((0.0,), decode=30, releases=releases)
    assert forecast.expect(Waiting(8000), 0.0).at == pytest.approx(6.0 + seconds(8000))
    # Who is booked stays there for two seconds after his first token.
    forecast.fold([Waiting(8000)])
    expected = forecast.expect(Waiting(8000), 0.0)
    assert expected.at == pytest.approx(6.0 + seconds(8000) + 2.0 + seconds(8000))


def test_nothing_is_known_where_nothing_comes_free():
    assert forecast_of((0.0,), decode=99).expect(Waiting(8000), 0.0) is None
    assert forecast_of((0.0,), prefill=16).expect(Waiting(8000), 0.0) is None
    assert forecast_of(()).expect(Waiting(8000), 0.0) is None
    stuck = forecast_of((0.0,), decode=150)
    assert not stuck.book(Waiting(8000, forced="2"))
    stuck.fold([Waiting(8000)])
    # Nor of those behind whom nothing is known of.
    assert stuck.expect(Waiting(100), 0.0) is None


def test_what_comes_free_where_nobody_is_any_more_helps_nobody():
    releases = [Release(2.0, "gone", 10**6), Release(3.0, "d", 100)]
    forecast = forecast_of((0.0,), decode=0, releases=releases)
    assert forecast.expect(Waiting(8000), 0.0).at == pytest.approx(3.0 + seconds(8000))


def test_very_many_releases_are_passed_in_few_steps():
    releases = [Release(float(second), "p0", 1) for second in range(20_000)]
    forecast = forecast_of((0.0,), prefill=0, releases=releases)
    scheduler, asked = forecast._scheduler, deque()
    plan = scheduler.plan
    scheduler.plan = lambda *given: asked.append(1) or plan(*given)
    at = forecast.expect(Waiting(8000), 0.0).at
    assert 8000.0 + seconds(8000) <= at < 8300.0 + seconds(8000)
    assert len(asked) < 200


def test_under_late_binding_only_who_can_begin_is_planned():
    forecast = forecast_of((2.0, 2.0, 5.0, 5.0), LATE)
    expected = forecast.expect(Waiting(8000), 0.0)
    alone = A100.fastest(8000)
    assert 2.0 + alone <= expected.at <= 5.0 + alone
    # On the clock of thought the first two are free.
    assert expected.plan.wait == 0.0


def test_the_price_counts_the_whole_queue():
    sizes = []
    for waiting in (0, 50):
        forecast = forecast_of((0.0,) * 16, LATE, waiting=waiting)
        sizes.append(forecast.expect(Waiting(60_000), 0.0).plan.chunks[-1].size)
    assert sizes[0] > sizes[1]


def test_those_behind_the_limit_delay_everybody_alike_by_their_work():
    forecast = forecast_of((0.0,) * 4)
    forecast.fold([Waiting(8000)] * 12, limit=4)
    work = min(size * A100.predict(size, 0, 8000) for size in A100.sizes)
    expected = seconds(8000) + 8 * work / 4 + seconds(8000)
    assert forecast.expect(Waiting(8000), 0.0).at == pytest.approx(expected)
    exact = forecast_of((0.0,) * 4)
    exact.fold([Waiting(8000)] * 12)
    assert exact.expect(Waiting(8000), 0.0).at == pytest.approx(4 * seconds(8000))
