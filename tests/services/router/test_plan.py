import pytest

from common.latency import Curve, LatencyModel
from services.router.plan import Policy, PoolView, Reused
from services.router.planner import Planner

MODEL = LatencyModel({1: Curve(0, 1e-3, 0, 0), 2: Curve(0, 0.5e-3, 0, 0)})
VIEW = PoolView(("p0", "p1", "p2"), ("a", "a", "b"), (0.25, 0.75, 2.0))


def test_chunks_start_when_their_group_is_free_and_the_chunk_before_is_over():
    plan = Planner(Policy((1, 2), 0.0, 1)).plan(2000, VIEW, MODEL)
    assert [(chunk.size, chunk.length) for chunk in plan.chunks] == [(1, 500), (2, 1500)]
    assert (plan.wait, plan.starts, plan.predicted) == (0.25, (0.25, 0.75), (0.5, 0.75))
    assert plan.starts[-1] + plan.predicted[-1] == plan.ttft


def test_a_plan_is_booked_on_its_members_until_its_first_token():
    plan = Planner(Policy((1, 2), 0.0, 1)).plan(2000, VIEW, MODEL)
    assert VIEW.after(plan).delays == (1.5, 1.5, 2.0)


def test_a_view_keeps_only_what_it_is_told_to():
    kept = VIEW.only(frozenset(["p2", "p0"]))
    assert kept == PoolView(("p0", "p2"), ("a", "b"), (0.25, 2.0))
    assert VIEW.only(frozenset(VIEW.names)) is VIEW


@pytest.mark.parametrize("members", [(), ("p1",)])
def test_what_is_reused_counts_as_the_prompt_but_takes_no_time(members):
    reused = Reused(1000, members)
    plan = Planner(Policy((1,), 0.0, 1)).plan(500, VIEW, MODEL, reused)
    assert (plan.length, plan.chunks[0].history, plan.chunks[0].length) == (1500, 1000, 500)
    assert plan.predicted == (0.5,)
    assert plan.members == (members or ("p0",))


def test_an_idle_view_has_the_same_instances_and_nothing_to_wait_for():
    view = PoolView(("a", "b"), ("n", "m"), (1.0, 2.0))
    assert view.idle() == PoolView(("a", "b"), ("n", "m"), (0.0, 0.0))
