from dataclasses import replace

import pytest
from msgspec import json

from common.latency import Curve, LatencyModel
from common.messages import Chunk, Explained
from common.pages import Owner
from common.wire import CONTROL
from services.router.decision_answer import MAX_BYTES, DecisionAnswer, decision_answer
from services.router.decisions import Decision, Measured
from services.router.forced import forced_plan
from services.router.plan import Plan, Policy, PoolView
from services.router.planner import Planner
from services.router.wall import Wall

MODEL = LatencyModel({1: Curve(0, 1e-3, 0, 0), 2: Curve(0, 0.5e-3, 0, 0)})
VIEW = PoolView(("p0", "p1"), ("n0", "n0"), (0.0, 0.5))
POLICY = Policy((1, 2), 0.0, 1)
PLAN = Planner(POLICY).plan(2000, VIEW, MODEL)


def answer(plan: Plan, model: LatencyModel = MODEL, **changes: object) -> DecisionAnswer:
    wall = Wall()
    wall.offset = 100.0
    decision = Decision(Owner("r", 2), plan, model, "d", 1.0, 3.0, **changes)
    text = decision_answer(decision, wall)
    assert len(text) <= MAX_BYTES
    assert CONTROL.decode(CONTROL.encode(Explained(1, text)))[0] == Explained(1, text)
    return json.decode(text, type=DecisionAnswer)


def test_all_that_a_plan_was_chosen_from_is_in_the_answer() -> None:
    told = answer(PLAN, shadow=0.75, measured={0: Measured(1, 0.5, 0.0, 0.0, 0.5, 0.0, 3.5)})
    assert (told.request, told.attempt, told.decode) == ("r", 2, "d")
    assert (told.arrived, told.planned, told.waited) == (101.0, 103.0, 2.0)
    assert (told.policy, told.improvement_rate, told.price) == ("cdsp", 0.0, 0.0)
    assert (told.ttft, told.shadow, told.forced, told.problem) == (PLAN.ttft, 0.75, None, None)
    assert [(one.name, one.node, one.delay) for one in told.instances] == [
        ("p0", "n0", 0.0),
        ("p1", "n0", 0.5),
    ]
    assert [(one.size, one.ttft, one.verdict) for one in told.plan.candidates] == [
        (1, 2.0, "accepted, the first one"),
        (2, 1.5, "accepted, TTFT below 2.000"),
    ]
    assert [one.dropped for one in told.plan.chunkings] == ["a larger size is better", None, None]
    assert [(one.length, one.group, one.start, one.seconds) for one in told.plan.chunks] == [
        (500, ("p0",), 0.0, 0.5),
        (1500, ("p0", "p1"), 0.5, 0.75),
    ]
    [measured] = told.measured
    assert (measured.index, measured.members, measured.seconds) == (0, 1, 0.5)
    assert measured.ended == 103.5


def test_a_demanded_plan_says_so_and_has_no_candidates() -> None:
    told = answer(forced_plan("1:500,2", 2000, VIEW, POLICY, MODEL))
    assert (told.policy, told.forced, told.plan.candidates) == ("forced", "1:500,2", ())
    assert [one.chosen for one in told.plan.chunkings] == [True]


@pytest.mark.parametrize(
    ("plan", "model", "why"),
    [
        (replace(PLAN, ttft=PLAN.ttft + 1e-12), MODEL, "not reproduced"),
        (PLAN, MODEL.scaled(2.0), "not reproduced"),
        (replace(PLAN, forced="3"), MODEL, "SP size 3 is not in the latency model"),
        (replace(PLAN, policy=Policy((4,), 0.0, 1)), MODEL, "no SP size"),
    ],
)
def test_a_plan_that_cannot_be_explained_is_told_with_the_reason(
    plan: Plan, model: LatencyModel, why: str
) -> None:
    told = answer(plan, model)
    assert told.problem is not None and why in told.problem
    assert (told.plan.candidates, told.plan.chunkings) == ((), ())
    assert len(told.plan.chunks) == 2


def test_a_search_that_looks_at_too_much_is_not_told() -> None:
    model = LatencyModel({size: Curve(0.01, 1e-4 / size, 0, 1e-9 / size) for size in range(1, 17)})
    delays = tuple(0.37 * (7 * index % 16) for index in range(16))
    view = PoolView(tuple(f"p{index}" for index in range(16)), ("n",) * 16, delays)
    plan = Planner(Policy(model.sizes, 0.0, 1, "cdsp-priced", price=0.01)).plan(10**6, view, model)
    told = answer(plan, model)
    assert told.problem == "the search takes more than 20000 steps to tell of"
    assert [one.length for one in told.plan.chunks] == [one.length for one in plan.chunks]


def test_the_longest_answer_is_cut_and_says_what_was_left_out() -> None:
    sizes = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
    model = LatencyModel({size: Curve(0.01, 1e-4 / size, 0, 1e-9 / size) for size in sizes})
    names = tuple(f"{index:064d}" for index in range(1024))
    delays = tuple(3.0 * (389 * index % 1024) / 1024 for index in range(1024))
    view = PoolView(names, names, delays)
    plan = Planner(Policy(sizes, 0.0, 1, "cdsp-priced", price=0.001)).plan(500_000, view, model)
    told = answer(plan, model)
    assert told.problem is None
    assert 0 < len(told.instances) < 1024
    assert told.left_out.instances == 1024 - len(told.instances)
    assert told.left_out.chunkings > 0
    assert [one.chosen for one in told.plan.chunkings].count(True) == 1
    assert told.plan.candidates[-1].size == 1024
    assert len(told.plan.candidates[-1].group) < 1024


def test_even_the_largest_plan_that_there_may_be_has_an_answer() -> None:
    names = tuple(f"{index:064d}" for index in range(1024))
    chunks = tuple(Chunk(index, 1, 1024) for index in range(64))
    view = PoolView(names, names, (0.0,) * 1024)
    plan = Plan(chunks, names, (1.0,) * 64, 64.0, view, POLICY)
    told = answer(plan)
    assert told.problem is not None
    assert len(told.plan.chunks) == 64
