import itertools
import random
from dataclasses import replace

import pytest

from common.latency import Curve, LatencyModel
from services.router.explain import NO_GAP, NOT_WORTH, OUTDONE, Chunking, explain
from services.router.forced import forced_plan
from services.router.groups import Groups
from services.router.plan import Policy, PoolView, Reused
from services.router.planner import Planner, usable_sizes
from services.router.search import cost
from services.router.trace import NOT_SHORTER, TOO_LATE, TOO_SHORT

A100 = LatencyModel.load("a100-llama3-8b")
SIZES = (1, 2, 4, 8, 16)
NAMES = ("cdsp", "single-chunk", "loongserve", "fixed-sp", "cdsp-priced")
TINY = LatencyModel({1: Curve(0, 1e-3, 0, 0), 2: Curve(0, 0.5e-3, 0, 0)})
"""A thousand tokens a second on one instance, two thousand on two."""


def view_of(delays, per_node=8):
    return PoolView(
        tuple(f"p{index}" for index in range(len(delays))),
        tuple(f"n{index // per_node}" for index in range(len(delays))),
        tuple(float(delay) for delay in delays),
    )


def random_plan(seed, name):
    rng = random.Random(seed)
    delays = [
        rng.choice((0.0, rng.uniform(0, 3), rng.uniform(0, 0.5), 0.25))
        for _ in range(rng.randint(2, 20))
    ]
    view = view_of(delays, rng.choice((2, 3, 8)))
    sizes = (rng.choice((1, 2)),) if name == "fixed-sp" else SIZES
    policy = Policy(
        sizes=sizes,
        rate=rng.choice((0.0, 0.05, 0.3, 0.7)),
        min_chunk=rng.choice((1, 128, 2048)),
        name=name,
        price=rng.choice((0.0, 0.1, 1.0)),
        fewest=rng.choice((1, 1, 2, 4)),
    )
    reused = Reused()
    if rng.random() < 0.4:
        members = rng.sample(view.names, rng.randint(0, 1 if name == "fixed-sp" else 2))
        reused = Reused(rng.randint(1, 50_000), tuple(members))
    if name == "fixed-sp":
        reused = replace(reused, members=())
    return Planner(policy).plan(rng.randint(1, 200_000), view, A100, reused)


@pytest.mark.parametrize("name", NAMES)
def test_an_explanation_reproduces_the_plan_and_has_chosen_it(name):
    for seed in range(200):
        plan = random_plan(seed, name)
        told = explain(plan, A100)
        assert told.plan == plan
        assert [one.chosen for one in told.chunkings].count(True) == 1
        assert told.chosen.ttft == plan.ttft
        assert told.chosen.sizes == tuple(chunk.size for chunk in plan.chunks)
        assert told.chosen.lengths == tuple(chunk.length for chunk in plan.chunks)
        assert told.chosen.dropped is None


@pytest.mark.parametrize("name", ["cdsp", "single-chunk", "loongserve", "cdsp-priced"])
def test_every_usable_size_is_a_candidate_with_its_group_delay_and_ttft(name):
    for seed in range(200):
        plan = random_plan(seed, name)
        view, reused = plan.view, plan.reused
        told = explain(plan, A100)
        usable = usable_sizes(plan.policy.sizes, view, A100, len(reused.members))
        if name == "cdsp-priced":
            usable = tuple(s for s in usable if s >= plan.policy.fewest or s == usable[-1])
        assert tuple(one.size for one in told.candidates) == usable
        delays = dict(zip(view.names, view.delays, strict=True))
        groups = Groups.of(view, tuple(view.names.index(name) for name in reused.members))
        for one in told.candidates:
            group = groups.extend(groups.start, one.size)
            assert one.members == tuple(view.names[index] for index in group.members)
            assert one.delay == max(delays[name] for name in one.members)
            seconds = A100.predict(one.size, reused.tokens, plan.length - reused.tokens)
            assert one.ttft == pytest.approx(one.delay + seconds, rel=1e-12)


@pytest.mark.parametrize("name", ["cdsp", "single-chunk", "loongserve"])
def test_a_candidate_is_accepted_when_it_beats_the_last_accepted_one_by_the_rate(name):
    for seed in range(100):
        plan = random_plan(seed, name)
        keep = 1.0 if name == "loongserve" else 1 - plan.policy.rate
        best = float("inf")
        for one in explain(plan, A100).candidates:
            assert one.needed == best * keep
            assert one.accepted == (one.ttft < best * keep)
            best = one.ttft if one.accepted else best
        if name != "cdsp":
            assert best == plan.ttft


def test_the_cheapest_candidate_of_a_priced_plan_is_the_plan():
    for seed in range(200):
        plan = random_plan(seed, "cdsp-priced")
        delays = dict(zip(plan.view.names, plan.view.delays, strict=True))
        candidates = explain(plan, A100).candidates
        cheapest = [one for one in candidates if one.accepted][-1]
        assert cheapest.cost == min(one.cost for one in candidates)
        assert (cheapest.size, cheapest.fastest) == (plan.chunks[-1].size, plan.ttft)
        kept = [delays[name] for name in plan.members]
        assert cheapest.cost == cost(plan.ttft, kept, plan.policy.price)


@pytest.mark.parametrize("name", ["cdsp", "cdsp-priced"])
def test_every_whole_chunking_keeps_its_promise_and_none_that_competed_beats_the_plan(name):
    for seed in range(100):
        plan = random_plan(seed, name)
        told = explain(plan, A100)
        for one in told.chunkings:
            assert all(before <= after for before, after in itertools.pairwise(one.sizes))
            whole = len(one.sizes) == len(one.lengths)
            if whole:
                assert sum(one.lengths) == plan.length - plan.reused.tokens
            assert whole == (one.dropped in (None, NOT_WORTH, OUTDONE))
            if whole and one.dropped is None and name == "cdsp":
                assert one.ttft >= plan.ttft


@pytest.mark.parametrize("seed", range(100))
def test_every_pair_of_sizes_up_to_the_best_single_chunk_is_among_the_chunkings(seed):
    plan = random_plan(seed, "cdsp")
    told = explain(plan, A100)
    largest = max(one.size for one in told.candidates if one.accepted)
    sizes = [one.size for one in told.candidates if one.size <= largest]
    assert {one.sizes for one in told.chunkings} >= set(itertools.combinations(sizes, 2))


def test_what_became_of_each_chunking_is_told():
    # One instance is free at once, a second one after half a second.
    plan = Planner(Policy((1, 2), 0.0, 100)).plan(2000, view_of([0.0, 0.5]), TINY)
    assert explain(plan, TINY).chunkings == (
        Chunking((1,), (2000,), 2.0, OUTDONE),
        Chunking((2,), (2000,), 1.5),
        Chunking((1, 2), (500, 1500), 1.25, chosen=True),
    )


@pytest.mark.parametrize(
    ("policy", "length", "delays", "model", "expected"),
    [
        (Policy((1, 2), 0.0, 501), 2000, [0, 0.5], TINY, ((1, 2), (500,), None, TOO_SHORT)),
        (Policy((1, 2), 0.0, 1), 2000, [0.2, 0.2], TINY, ((1, 2), (), None, NO_GAP)),
        (Policy((1, 2), 0.8, 1), 2000, [0, 0], TINY, ((2,), (2000,), 1.0, NOT_WORTH)),
    ],
)
def test_a_dropped_chunking_has_its_reason(policy, length, delays, model, expected):
    plan = Planner(policy).plan(length, view_of(delays), model)
    assert Chunking(*expected) in explain(plan, model).chunkings


def test_a_chunk_that_ends_after_another_whole_plan_is_too_late():
    model = LatencyModel(TINY.curves | {4: Curve(0.1, 0, 0, 0)})
    plan = Planner(Policy((1, 2, 4), 0.0, 1)).plan(8500, view_of([0, 1, 5, 5]), model)
    told = explain(plan, model)
    assert told.chosen == Chunking((1, 2), (1000, 7500), 4.75, chosen=True)
    assert Chunking((1, 4), (5000,), 5.0, TOO_LATE) in told.chunkings
    assert Chunking((2, 4), (8000,), 5.0, TOO_LATE) in told.chunkings
    # Four instances after the first chunk: the rest in a tenth of a second, but after five.
    assert Chunking((1, 4), (1000, 7500), 5.1, NOT_WORTH) in told.chunkings


def test_a_gap_that_holds_the_whole_prompt_is_no_reason_to_cut_it():
    policy = Policy((1, 2), 0.0, 1, "cdsp-priced", price=1.0)
    told = explain(Planner(policy).plan(400, view_of([0.0, 0.5]), TINY), TINY)
    assert told.chosen == Chunking((1,), (400,), 0.4, chosen=True)
    assert Chunking((1, 2), (500,), None, NOT_SHORTER) in told.chunkings


def test_a_fixed_group_is_taken_because_it_is_free_first():
    plan = Planner(Policy((2,), 0.0, 1, "fixed-sp")).plan(1000, view_of([0.4, 0.1, 0.2, 0.3]), TINY)
    told = explain(plan, TINY)
    assert [(one.members, one.delay, one.accepted) for one in told.candidates] == [
        (("p0", "p1"), 0.4, False),
        (("p2", "p3"), 0.3, True),
    ]


def test_a_forced_plan_is_explained_as_forced():
    view = view_of([0.0, 0.5])
    plan = forced_plan("1:500,2", 2000, view, Policy((1, 2), 0.0, 1), TINY)
    told = explain(plan, TINY)
    assert told.plan.forced == "1:500,2"
    assert told.candidates == ()
    assert told.chunkings == (Chunking((1, 2), (500, 1500), 1.25, chosen=True),)


def test_a_plan_that_its_inputs_do_not_lead_to_is_refused():
    plan = Planner(Policy((1, 2), 0.0, 1)).plan(2000, view_of([0.0, 0.5]), TINY)
    for wrong in (
        replace(plan, ttft=plan.ttft + 1e-12),
        replace(plan, policy=Policy((1,), 0.0, 1)),
        replace(plan, forced="2"),
    ):
        with pytest.raises(ValueError, match="not reproduced"):
            explain(wrong, TINY)
