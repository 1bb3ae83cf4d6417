import msgspec

from common.latency import Curve, LatencyModel
from services.router.explain import explain
from services.router.plan import Policy, PoolView, Reused
from services.router.plan_answer import plan_answer
from services.router.planner import Planner
from services.router.prefix import shares

MODEL = LatencyModel({1: Curve(0, 1e-3, 0, 0), 2: Curve(0, 0.5e-3, 0, 0)})
VIEW = PoolView(("p0", "p1"), ("n0", "n0"), (0.0, 0.5))


def test_an_answer_has_the_plan_and_all_that_it_was_chosen_from() -> None:
    plan = Planner(Policy((1, 2), 0.0, 1)).plan(2000, VIEW, MODEL)
    assert msgspec.to_builtins(plan_answer(explain(plan, MODEL), [])) == {
        "policy": {
            "sizes": (1, 2),
            "rate": 0.0,
            "min_chunk": 1,
            "name": "cdsp",
            "price": 0.0,
            "fewest": 1,
        },
        "ttft": 1.25,
        "reused": {"tokens": 0, "members": ()},
        "chunks": (
            {"length": 500, "history": 0, "group": ("p0",), "start": 0.0, "seconds": 0.5},
            {"length": 1500, "history": 500, "group": ("p0", "p1"), "start": 0.5, "seconds": 0.75},
        ),
        "candidates": (
            {
                "size": 1,
                "group": ("p0",),
                "delay": 0.0,
                "ttft": 2.0,
                "accepted": True,
                "verdict": "accepted, the first one",
            },
            {
                "size": 2,
                "group": ("p0", "p1"),
                "delay": 0.5,
                "ttft": 1.5,
                "accepted": True,
                "verdict": "accepted, TTFT below 2.000",
                "needed": 2.0,
            },
        ),
        "chunkings": (
            {
                "sizes": (1,),
                "lengths": (2000,),
                "ttft": 2.0,
                "dropped": "a larger size is better",
                "chosen": False,
            },
            {"sizes": (2,), "lengths": (2000,), "ttft": 1.5, "dropped": None, "chosen": False},
            {
                "sizes": (1, 2),
                "lengths": (500, 1500),
                "ttft": 1.25,
                "dropped": None,
                "chosen": True,
            },
        ),
        "shares": (),
    }


def test_a_price_and_shares_of_a_prefix_are_in_it_where_there_are_any() -> None:
    policy = Policy((1, 2), 0.0, 1, "cdsp-priced", price=1.0)
    tried = shares(Reused(500, ("p0",)), 2000, VIEW, policy, MODEL)
    answer = plan_answer(explain(tried[1].plan, MODEL), tried)
    assert answer.reused == Reused(500, ("p0",))
    assert [share.reused.tokens for share in answer.shares] == [0, 500]
    assert [(one.fastest, one.cost) for one in answer.candidates] == [(1.5, 3.0), (1.0, 2.5)]
