from dataclasses import dataclass

import pytest

from common.errors import RequestFailed
from common.latency import LatencyModel
from common.schedule import Pricing, Schedule
from services.router.plan import PoolView
from services.router.scheduler import Scheduler

A100 = LatencyModel.load("a100-llama3-8b")


@dataclass
class Waiting:
    length: int
    arrived: float = 0.0
    is_retry: bool = False
    forced: str | None = None
    size: int | None = None


def view_of(delays):
    names = tuple(f"p{index}" for index in range(len(delays)))
    return PoolView(names, ("n",) * len(delays), tuple(map(float, delays)))


def priced(**changes):
    return Schedule(policy="cdsp-priced", priced=Pricing(**({"order": "arrival"} | changes)))


def started(scheduler, queue, view, slots=10**9):
    free = dict.fromkeys(view.names, slots)
    return list(scheduler.starts(queue, view, lambda: free, 0.0))


def test_policies_that_commit_at_arrival_start_everybody_at_once():
    queue = [Waiting(50_000), Waiting(50_000), Waiting(4_096)]
    for policy in ("cdsp", "single-chunk", "loongserve", "fixed-sp:4"):
        view = view_of([1.0] * 8)
        found = started(Scheduler(Schedule(policy=policy), A100), queue, view)
        assert [request for request, _ in found] == queue
        # Each sees the instances as those before it leave them.
        assert found[1][1].view.delays != view.delays


def test_late_binding_starts_only_what_can_begin_now():
    scheduler = Scheduler(priced(), A100)
    queue = [Waiting(100_000), Waiting(100_000), Waiting(100_000)]
    found = started(scheduler, queue, view_of([0.0] * 8))
    assert found
    assert all(plan.wait == 0 for _, plan in found)
    assert started(scheduler, queue, view_of([0.1] * 8)) == []


def test_a_request_that_waits_for_more_keeps_its_instances_from_those_behind_it():
    # The long prompt is better off waiting for all four; nobody behind it may take the free one.
    model = A100
    schedule = Schedule(policy="cdsp-priced", sp_size_candidates=(4,),
                        priced=Pricing(order="arrival"))  # fmt: skip
    scheduler = Scheduler(schedule, model)
    view = view_of([0.0, 0.0, 0.0, 0.5])
    assert started(scheduler, [Waiting(100_000), Waiting(4_096)], view) == []
    both = Scheduler(priced(), model)
    # With every size allowed both find their place: nothing of the pool lies idle.
    assert started(both, [Waiting(100_000), Waiting(4_096)], view)


def test_the_price_grows_with_the_queue_and_makes_groups_smaller():
    scheduler = Scheduler(priced(base=1.0, per_waiting=8.0), A100)
    view = view_of([0.0] * 16)
    assert scheduler.policy(0, view, 0.0).price == 1 / 16
    assert scheduler.policy(3, view, 0.0).price == 25 / 16
    alone = started(scheduler, [Waiting(60_000)], view)[0][1]
    crowded = started(scheduler, [Waiting(60_000) for _ in range(8)], view)[0][1]
    assert crowded.chunks[-1].size < alone.chunks[-1].size


def test_without_late_binding_those_who_wait_are_counted_by_littles_law():
    schedule = priced(base=0.0, per_waiting=1.0, late_binding=False)
    scheduler = Scheduler(schedule, A100)
    for index in range(60):
        scheduler.arrive(index / 2)
    view = view_of([3.0, 1.0])
    # 2 requests per second, each delayed by 2 s on average.
    assert scheduler.policy(0, view, 30.0).price == pytest.approx(2 * 2 / 2)


def test_only_late_binding_has_another_order_than_that_of_arrival():
    long, short = Waiting(190_000), Waiting(4_096, arrived=1.0)
    scheduler = Scheduler(priced(order="slope:3"), A100)
    assert scheduler.ordered([long, short], 1.0) == [short, long]
    for schedule in (Schedule(), priced(order="slope:3", late_binding=False), priced()):
        assert Scheduler(schedule, A100).ordered([long, short], 1.0) == [long, short]


def test_what_starts_late_is_remembered_by_the_order():
    scheduler = Scheduler(priced(order="tail:0.5"), A100)
    queue = [Waiting(60_000, arrived=40.0), Waiting(4_096, arrived=40.1)]
    # Nothing is known yet: everybody is urgent.
    assert scheduler.ordered(queue, 41.0) == queue
    view = view_of([0.0] * 8)
    free = dict.fromkeys(view.names, 10**9)
    late = [Waiting(60_000, arrived=0.0)]
    assert list(scheduler.starts(late, view, lambda: free, 41.0))
    # A first token after more than 41 s: whoever may still come before 20 s can wait.
    assert scheduler.ordered(queue, 41.0) == queue[::-1]


def test_without_replanning_a_waiting_request_keeps_the_size_of_its_group():
    scheduler = Scheduler(priced(replan=False), A100)
    request = Waiting(60_000)
    assert started(scheduler, [request], view_of([0.5] * 16)) == []
    size = request.size
    assert size is not None
    crowd = [request, *(Waiting(60_000) for _ in range(20))]
    ((first, plan), *_) = started(scheduler, crowd, view_of([0.0] * 16))
    assert first is request
    assert plan.chunks[-1].size == size
    free = Waiting(60_000)
    ((_, other), *_) = started(Scheduler(priced(), A100), [free, *crowd[1:]], view_of([0.0] * 16))
    assert other.chunks[-1].size < size
    assert free.size is None


def test_a_request_without_memory_holds_up_all_behind_it():
    queue = [Waiting(50_000), Waiting(4_096)]
    assert started(Scheduler(Schedule(), A100), queue, view_of([0.0] * 4), slots=5_000) == []


def test_a_schedule_that_the_model_does_not_know_changes_nothing():
    scheduler = Scheduler(Schedule(), A100)
    before = scheduler.schedule
    for wrong, key in ((Schedule(policy="fixed-sp:3"), "policy"),
                       (Schedule(sp_size_candidates=(3, 5)), "sp_size_candidates")):  # fmt: skip
        with pytest.raises(RequestFailed, match=f"^{key}: "):
            scheduler.update(wrong)
        assert scheduler.schedule is before
    with pytest.raises(RequestFailed):
        Scheduler(Schedule(policy="fixed-sp:3"), A100)


def test_a_new_schedule_plans_from_then_on():
    scheduler = Scheduler(Schedule(), A100)
    view = view_of([0.0] * 16)
    scheduler.update(Schedule(policy="fixed-sp:2"))
    ((_, plan),) = started(scheduler, [Waiting(100_000)], view)
    assert [chunk.size for chunk in plan.chunks] == [2]
    scheduler.update(Schedule(policy="loongserve"))
    ((_, plan),) = started(scheduler, [Waiting(100_000)], view)
    assert [chunk.size for chunk in plan.chunks] == [16]


def test_only_late_binding_keeps_a_size():
    for schedule in (Schedule(priced=Pricing(replan=False)),
                     priced(replan=False, late_binding=False)):  # fmt: skip
        request = Waiting(60_000)
        assert started(Scheduler(schedule, A100), [request], view_of([0.0] * 16))
        assert request.size is None


def test_what_could_start_but_is_not_booked_is_no_memory_of_the_order():
    scheduler = Scheduler(priced(order="tail:0.5"), A100)
    queue = [Waiting(60_000, arrived=40.0), Waiting(4_096, arrived=40.1)]
    view = view_of([0.0] * 8)
    free = dict.fromkeys(view.names, 10**9)
    # No decode instance has room, so whoever books asks for no more.
    next(scheduler.starts([Waiting(60_000)], view, lambda: free, 41.0))
    assert scheduler.ordered(queue, 41.0) == queue
