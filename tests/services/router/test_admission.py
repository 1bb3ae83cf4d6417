import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import RequestFailed
from common.latency import LatencyModel
from services.router.admission import Admission
from services.router.memory import fits
from services.router.plan import Policy, PoolView
from services.router.planner import Planner

A100 = LatencyModel.load("a100-llama3-8b")
POLICY = Policy((1, 2, 4, 8), 0.1, 128)
ADMISSION = Admission(A100)


def view_of(delays):
    names = tuple(f"p{index}" for index in range(len(delays)))
    return PoolView(names, ("n",) * len(delays), tuple(map(float, delays)))


def free_of(view, slots):
    return dict(zip(view.names, slots, strict=True))


def test_without_pressure_it_is_the_planners_plan():
    view = view_of([0, 0, 0.4, 0.5, 1, 1, 1, 1])
    plan = ADMISSION.plan(60_000, view, dict.fromkeys(view.names, 10**6), POLICY)
    assert plan.chunks == Planner(POLICY).plan(60_000, view, A100).chunks


def test_instances_without_room_take_no_part():
    view = view_of([0, 0, 5, 5])
    plan = ADMISSION.plan(1000, view, free_of(view, [100, 100, 2000, 2000]), POLICY)
    assert set(plan.members) <= {"p2", "p3"}


def test_a_prompt_too_long_for_one_instance_is_spread():
    view = view_of([0, 0, 0, 0])
    plan = ADMISSION.plan(4000, view, dict.fromkeys(view.names, 1008), POLICY)
    assert [chunk.size for chunk in plan.chunks] == [4]
    assert ADMISSION.plan(4100, view, dict.fromkeys(view.names, 1008), POLICY) is None


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_every_plan_fits(data):
    count = data.draw(st.integers(1, 8))
    view = view_of(data.draw(st.lists(st.floats(0, 3), min_size=count, max_size=count)))
    slots = data.draw(st.lists(st.integers(0, 400), min_size=count, max_size=count))
    free = free_of(view, [16 * pages for pages in slots])
    length = data.draw(st.integers(1, 20_000))
    plan = ADMISSION.plan(length, view, free, POLICY)
    assert plan is None or fits(plan, free)
    forced = ADMISSION.forced("1,1,1", max(3, length), view, free, POLICY)
    assert forced is None or fits(forced, free)


def test_what_never_fits_is_refused_with_what_to_raise():
    totals = {"a": 1024, "b": 1024}
    ADMISSION.check(2048, totals, None, POLICY)
    with pytest.raises(RequestFailed, match=r"raise prefill\.kv_tokens"):
        ADMISSION.check(2049, totals, None, POLICY)
    with pytest.raises(RequestFailed, match=r"raise prefill\.kv_tokens"):
        ADMISSION.check(2000, totals, "1", POLICY)
    ADMISSION.check(2000, totals, "2", POLICY)
    ADMISSION.check(1024, {"a": 1024, "b": 16}, "1", POLICY)
    with pytest.raises(RequestFailed, match="there are 2"):
        ADMISSION.check(2000, totals, "4", POLICY)
    # Nobody has joined yet: it may still come to fit, but a wrong demand stays wrong.
    ADMISSION.check(10**6, {}, "8", POLICY)
    with pytest.raises(RequestFailed, match="shrink"):
        ADMISSION.check(10, {}, "2,1", POLICY)


def test_a_forced_plan_waits_for_room():
    view = view_of([0, 0])
    assert ADMISSION.forced("2", 64, view, {"p0": 32, "p1": 16}, POLICY) is None
    assert ADMISSION.forced("2", 64, view, {"p0": 32, "p1": 32}, POLICY).members == ("p0", "p1")
