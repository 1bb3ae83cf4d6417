import pytest

from common.latency import LatencyModel
from services.router.explain import explain
from services.router.plan import Policy, PoolView
from services.router.planner import Planner

A100 = LatencyModel.load("a100-llama3-8b")


def test_the_last_accepted_option_is_the_single_chunk_plan():
    view = PoolView(
        tuple(f"p{i}" for i in range(16)), ("a",) * 8 + ("b",) * 8, tuple(i / 9 for i in range(16))
    )
    for length in (3_000, 20_000, 90_000, 180_000):
        for rate in (0.0, 0.3, 0.6):
            policy = Policy((1, 2, 4, 8, 16), rate, 128, "single-chunk")
            plan = Planner(policy).plan(length, view, A100)
            options = explain(plan, A100)
            assert [option.size for option in options] == [1, 2, 4, 8, 16]
            chosen = [option for option in options if option.accepted][-1]
            assert (chosen.size, chosen.members) == (plan.chunks[0].size, plan.members)
            assert chosen.ttft == pytest.approx(plan.ttft, rel=1e-12)
