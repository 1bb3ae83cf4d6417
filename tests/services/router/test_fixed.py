import random

from common.latency import LatencyModel
from services.router.plan import Policy, PoolView
from services.router.planner import Planner

A100 = LatencyModel.load("a100-llama3-8b")


def plan_of(size, delays, per_node, length=30_000):
    names = tuple(f"p{index}" for index in range(len(delays)))
    nodes = tuple(f"n{index // per_node}" for index in range(len(delays)))
    view = PoolView(names, nodes, tuple(map(float, delays)))
    return Planner(Policy((size,), 0.3, 128, "fixed-sp")).plan(length, view, A100)


def test_the_group_that_is_free_first_takes_the_whole_prompt():
    plan = plan_of(4, [0, 0, 0, 9, 1, 1, 1, 1], per_node=8)
    assert plan.members == ("p4", "p5", "p6", "p7")
    assert [(chunk.size, chunk.length) for chunk in plan.chunks] == [(4, 30_000)]
    assert plan.ttft == 1 + A100.predict(4, 0, 30_000)
    assert plan.wait == 1


def test_groups_stay_the_same_whatever_is_busy():
    rng = random.Random(1)
    seen = {plan_of(2, [rng.random() for _ in range(12)], per_node=3).members for _ in range(300)}
    # One pair on each node of three, the odd ones in pairs across nodes.
    assert seen == {
        ("p0", "p1"), ("p3", "p4"), ("p6", "p7"), ("p9", "p10"), ("p2", "p5"), ("p8", "p11")
    }  # fmt: skip


def test_a_group_larger_than_a_node_takes_whole_nodes():
    assert plan_of(8, [0.0] * 16, per_node=4).members == tuple(f"p{index}" for index in range(8))


def test_instances_without_a_full_group_stay_idle():
    assert set(plan_of(4, [5] * 4 + [0, 0, 0], per_node=7).members) == {"p0", "p1", "p2", "p3"}
