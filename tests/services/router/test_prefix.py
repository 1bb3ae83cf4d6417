import random
from dataclasses import replace

import pytest

from common.errors import RequestFailed
from common.latency import Curve, LatencyModel
from services.router.explain import explain
from services.router.groups import Groups
from services.router.memory import member_slots
from services.router.plan import Policy, PoolView, Reused
from services.router.planner import Planner
from services.router.prefix import best_share, shares
from tests.services.router.test_planner import literal_cdsp

A100 = LatencyModel.load("a100-llama3-8b")
SIZES = (1, 2, 4, 8, 16)
LINEAR = LatencyModel({1: Curve(0, 1e-3, 0, 0), 2: Curve(0, 0.5e-3, 0, 0)})
"""A thousand tokens a second on one instance, two thousand on two; history costs nothing."""


def view_of(delays, per_node=8):
    return PoolView(
        tuple(f"p{index}" for index in range(len(delays))),
        tuple(f"n{index // per_node}" for index in range(len(delays))),
        tuple(float(delay) for delay in delays),
    )


def random_case(seed, name="cdsp"):
    rng = random.Random(seed)
    count = rng.randint(2, 12)
    view = view_of([rng.choice((0.0, rng.uniform(0, 2))) for _ in range(count)], rng.choice((3, 8)))
    length = rng.randint(2, 150_000)
    holders = tuple(rng.sample(view.names, rng.randint(1, count)))
    prefix = Reused(rng.randint(0, 2 * length), holders)
    policy = Policy(SIZES, rng.choice((0.0, 0.1, 0.5)), rng.choice((1, 512)), name, price=0.2)
    return prefix, length, view, policy


def every_share(prefix, length, view, sizes):
    """(tokens, members) for all heads of the holders that fit into some candidate's group."""
    for count in range(len(prefix.members) + 1):
        if any(count <= size <= len(view.names) for size in sizes):
            tokens = prefix.tokens * count // len(prefix.members)
            yield min(tokens, length - 1), prefix.members[:count]


@pytest.mark.parametrize("seed", range(150))
def test_the_best_share_is_that_of_a_literal_search_over_all_of_them(seed):
    prefix, length, view, policy = random_case(seed)
    best = float("inf")
    for tokens, members in every_share(prefix, length, view, SIZES):
        held = [view.names.index(name) for name in members]
        pool = [(delay, delay) for delay in view.delays]
        sizes = [size for size in SIZES if len(held) <= size <= len(view.names)]
        rest = length - tokens
        ttft, _ = literal_cdsp(rest, tokens, held, sizes, pool, list(view.nodes), policy, A100)
        best = min(best, ttft)
    assert best_share(prefix, length, view, policy, A100).ttft == pytest.approx(best, rel=1e-9)


@pytest.mark.parametrize("seed", range(100))
def test_a_single_chunk_takes_the_best_of_all_shares_and_sizes(seed):
    prefix, length, view, policy = random_case(seed, "single-chunk")
    policy = replace(policy, rate=0.0)
    best = float("inf")
    for tokens, members in every_share(prefix, length, view, SIZES):
        groups = Groups.of(view, tuple(view.names.index(name) for name in members))
        for size in SIZES:
            if len(members) <= size <= len(view.names):
                delay = groups.extend(groups.start, size).delay
                best = min(best, delay + A100.predict(size, tokens, length - tokens))
    assert best_share(prefix, length, view, policy, A100).ttft == pytest.approx(best, rel=1e-12)


@pytest.mark.parametrize("name", ["cdsp", "cdsp-priced", "single-chunk", "loongserve", "fixed-sp"])
def test_reuse_is_never_worse_than_none_and_can_be_explained(name):
    for seed in range(60):
        prefix, length, view, policy = random_case(seed, name)
        if name == "fixed-sp":
            policy = replace(policy, sizes=(2,))
        none, *others = shares(prefix, length, view, policy, A100)
        assert none.plan == Planner(policy).plan(length, view, A100)
        plan = best_share(prefix, length, view, policy, A100)
        assert plan.length == length
        if name != "cdsp-priced":
            assert plan.ttft <= none.plan.ttft
        assert min(share.cost for share in (none, *others)) <= none.cost
        assert explain(plan, A100).plan == plan


@pytest.mark.parametrize("seed", range(60))
def test_members_come_first_history_is_what_is_reused_and_its_slots_are_counted(seed):
    prefix, length, view, policy = random_case(seed)
    for plan, _ in shares(prefix, length, view, policy, A100):
        held = plan.reused.members
        assert plan.members[: len(held)] == held == prefix.members[: len(held)]
        assert plan.chunks[0].history == plan.reused.tokens < length
        assert plan.chunks[0].size >= len(held)
        slots = sum(member_slots(plan.chunks, rank) for rank in range(len(plan.members)))
        assert slots >= length


def test_by_hand_a_half_is_reused_when_the_second_holder_is_busy():
    # p0 and p1 hold 500 tokens each of a prompt of 2,000; p1 is busy for 3 s, p2 is free.
    view, policy = view_of([0, 3, 0]), Policy((1, 2), 0.0, 1)
    prefix = Reused(1000, ("p0", "p1"))
    none, half, whole = (share.plan for share in shares(prefix, 2000, view, policy, LINEAR))
    # Nothing: 2,000 tokens on p0 and p2. All: 1,000 tokens, but only once p1 is free.
    assert none.ttft == 1.0
    assert whole.ttft == 3.5
    # Half: the other 1,500 tokens on p0, which has the first 500, and p2.
    assert half.ttft == 0.75
    assert half.members == ("p0", "p2")
    assert best_share(prefix, 2000, view, policy, LINEAR) == half


def test_by_hand_all_is_reused_when_both_holders_are_free_and_nothing_when_both_are_busy():
    policy, prefix = Policy((1, 2), 0.0, 1), Reused(1000, ("p0", "p1"))
    free = best_share(prefix, 2000, view_of([0, 0, 0]), policy, LINEAR)
    assert (free.ttft, free.reused) == (0.5, prefix)
    busy = best_share(prefix, 2000, view_of([3, 3, 0, 0]), policy, LINEAR)
    assert (busy.ttft, busy.reused) == (1.0, Reused())


def test_a_price_decides_what_is_reused_where_the_policy_goes_by_one():
    # p1, busy for 1.1 s, holds 1,000 tokens of 2,000. Without them: 1,100 tokens on p0, the rest
    # on both at 1.55 s, in 2.0 s of an instance. With them: on p1 alone at 2.1 s, in 1.0 s of it.
    view, prefix = view_of([0, 1.1]), Reused(1000, ("p1",))
    for price, members, ttft in ((0.0, ("p0", "p1"), 1.55), (10.0, ("p1",), 2.1)):
        policy = Policy((1, 2), 0.0, 1, "cdsp-priced", price)
        plan = best_share(prefix, 2000, view, policy, LINEAR)
        assert plan.members == members
        assert plan.ttft == pytest.approx(ttft)


def test_a_fixed_group_reuses_only_what_its_own_members_hold():
    policy = Policy((2,), 0.0, 1, "fixed-sp")
    # p1 and p2 are in different groups.
    plans = [
        share.plan
        for share in shares(Reused(1000, ("p1", "p2")), 2000, view_of([0] * 4), policy, LINEAR)
    ]
    assert [(plan.reused.tokens, plan.ttft) for plan in plans] == [(0, 1.0), (500, 0.75)]
    assert plans[1].members == ("p0", "p1")


def test_a_prefix_of_the_whole_prompt_leaves_one_token_to_compute():
    plan = best_share(Reused(5000, ("p0",)), 2000, view_of([0]), Policy((1,), 0.0, 1), LINEAR)
    assert (plan.reused.tokens, plan.chunks[-1].length, plan.length) == (1999, 1, 2000)


def test_holders_that_the_pool_lacks_are_named():
    with pytest.raises(RequestFailed, match="p9"):
        shares(Reused(10, ("p0", "p9")), 20, view_of([0]), Policy((1,), 0.0, 1), LINEAR)


def test_holders_beyond_the_largest_candidate_keep_their_shares():
    prefix = Reused(1000, ("p0", "p1", "p2", "p3"))
    held = shares(prefix, 2000, view_of([0] * 4), Policy((1, 2), 0.0, 1), LINEAR)
    assert [share.plan.reused.tokens for share in held] == [0, 250, 500]
