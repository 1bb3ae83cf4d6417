import itertools
import random
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import RequestFailed
from common.latency import Curve, LatencyModel
from services.router import planner as planner_module
from services.router import search
from services.router.groups import Groups
from services.router.plan import Plan, Policy, PoolView
from services.router.planner import Planner

try:
    from services.router import _search as core
except ImportError:
    core = None

A100 = LatencyModel.load("a100-llama3-8b")
SIZES = (1, 2, 4, 8, 16)


@pytest.fixture(scope="module", params=("compiled", "python"), autouse=True)
def implementation(request):
    """Everything here holds for both."""
    if request.param == "compiled" and core is None:
        pytest.skip("the compiled search has not been built")
    with pytest.MonkeyPatch.context() as patch:
        solve = core.search if request.param == "compiled" else search.search
        patch.setattr(planner_module, "SEARCH", solve)
        yield


def view_of(delays, per_node=8):
    return PoolView(
        tuple(f"p{index}" for index in range(len(delays))),
        tuple(f"n{index // per_node}" for index in range(len(delays))),
        tuple(float(delay) for delay in delays),
    )


def cost(plan: Plan, model: LatencyModel) -> float:
    """TTFT of a plan by list scheduling its chunks on the view's delays."""
    free = dict(zip(plan.view.names, plan.view.delays, strict=True))
    finish = 0.0
    for index, chunk in enumerate(plan.chunks):
        group = plan.group(index)
        start = max(finish, *(free[name] for name in group))
        finish = start + model.predict(chunk.size, chunk.history, chunk.length)
    return finish


# A literal transcription of the specification's algorithms, re-sorting the pool at every step.


def literal_fill(pool, nodes, need):
    """`nodes` holds None for instances that may not join."""
    joined = []
    while need:
        queues = {}
        for i, node in enumerate(nodes):
            if node is not None and i not in joined:
                queues.setdefault(node, []).append((pool[i], i))
        for queue in queues.values():
            queue.sort()
        fitting = {node: queue for node, queue in queues.items() if len(queue) >= need}
        if fitting:
            best = min(fitting, key=lambda node: fitting[node][need - 1][0])
        else:
            best = min(queues, key=lambda node: queues[node][-1][0])
        joined += [i for _, i in queues[best][:need]]
        need = max(0, need - len(queues[best]))
    return joined


def literal_group(pool, nodes, members, size):
    """Pool entries are (delay left, delay now): equal delays keep the order they came from."""
    need = size - len(members)
    hosting = {nodes[i] for i in members}
    free = [n if n in hosting and i not in members else None for i, n in enumerate(nodes)]
    others = [n if n not in hosting else None for n in nodes]
    first = min(need, sum(n is not None for n in free))
    joined = literal_fill(pool, free, first)
    return [*members, *joined, *literal_fill(pool, others, need - first)]


def delay_of(pool, group):
    return max(pool[i][0] for i in group)


def literal_single(length, history, members, sizes, pool, nodes, policy, model):
    best = None
    for size in sizes:
        group = literal_group(pool, nodes, members, size)
        ttft = delay_of(pool, group) + model.predict(size, history, length)
        if best is None or ttft < best[0] * (1 - policy.rate):
            best = (ttft, group)
    return best


def literal_cdsp(length, history, members, sizes, pool, nodes, policy, model):
    """(TTFT, [(length, group)]) of Algorithm 1 for what is left of a prompt."""
    ttft, group = literal_single(length, history, members, sizes, pool, nodes, policy, model)
    best = (ttft, [(length, group)])
    smaller = [size for size in sizes if size <= len(group)]
    nodes = [node if i in group else None for i, node in enumerate(nodes)]
    for current, following in itertools.combinations(smaller, 2):
        now = literal_group(pool, nodes, members, current)
        then = literal_group(pool, nodes, now, following)
        budget = delay_of(pool, then) - delay_of(pool, now)
        chunk = min(length, model.solve(current, history, budget))
        if chunk <= 0 or chunk < policy.min_chunk or chunk == length:
            continue
        passed = delay_of(pool, now) + model.predict(current, history, chunk)
        rest = literal_cdsp(
            length - chunk,
            history + chunk,
            now,
            [size for size in smaller if size >= following],
            [(max(0.0, left - passed), first) for left, first in pool],
            nodes,
            policy,
            model,
        )
        if passed + rest[0] < best[0]:
            best = (passed + rest[0], [(chunk, now), *rest[1]])
    return best


def literal(length, view, policy, model):
    pool = [(delay, delay) for delay in view.delays]
    sizes = [size for size in policy.sizes if size <= len(view.names)]
    return literal_cdsp(length, 0, [], sizes, pool, list(view.nodes), policy, model)


def random_case(rng, most=16):
    count = rng.randint(1, most)
    delays = [rng.choice((0.0, rng.uniform(0, 3), rng.uniform(0, 0.5))) for _ in range(count)]
    policy = Policy(SIZES, rng.choice((0.0, 0.05, 0.3, 0.7)), rng.choice((1, 128, 2048)))
    return rng.randint(1, 200_000), view_of(delays, rng.choice((2, 3, 8))), policy


@pytest.mark.parametrize("seed", range(300))
def test_plans_equal_a_literal_transcription_of_the_algorithms(seed):
    length, view, policy = random_case(random.Random(seed))
    plan = Planner(policy).plan(length, view, A100)
    ttft, chunks = literal(length, view, policy, A100)
    assert plan.ttft == pytest.approx(ttft, rel=1e-9)
    assert [chunk.length for chunk in plan.chunks] == pytest.approx(
        [length for length, _ in chunks], abs=1
    )
    assert [chunk.size for chunk in plan.chunks] == [len(group) for _, group in chunks]
    # Equal delays may be taken in another order; the delays of the groups are the same.
    delay = dict(zip(view.names, view.delays, strict=True))
    for index, (_, group) in enumerate(chunks):
        assert sorted(delay[name] for name in plan.group(index)) == sorted(
            view.delays[member] for member in group
        )


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 2**32))
def test_groups_nest_lengths_sum_to_the_prompt_and_members_are_distinct(seed):
    length, view, policy = random_case(random.Random(seed), most=32)
    plan = Planner(policy).plan(length, view, A100)
    assert len(set(plan.members)) == len(plan.members) == plan.chunks[-1].size
    assert sum(chunk.length for chunk in plan.chunks) == length == plan.length
    history = 0
    for before, chunk in itertools.pairwise((None, *plan.chunks)):
        assert chunk.history == history
        assert before is None or before.size < chunk.size
        history += chunk.length
    assert all(chunk.length >= policy.min_chunk for chunk in plan.chunks[:-1])


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 2**32))
def test_a_plan_is_never_later_than_a_single_chunk_and_keeps_its_promise(seed):
    length, view, policy = random_case(random.Random(seed))
    plan = Planner(policy).plan(length, view, A100)
    single = Planner(replace(policy, name="single-chunk")).plan(length, view, A100)
    assert len(single.chunks) == 1
    assert plan.ttft <= single.ttft
    # Chunks follow each other without a gap that the estimate forgets.
    assert cost(plan, A100) == pytest.approx(plan.ttft, rel=1e-9)


def exhaustive(length, delays, sizes, model, grid):
    """The least TTFT over all nested groups of one node and chunk lengths on a grid."""
    order = sorted(delays)
    best = float("inf")
    for count in range(1, len(sizes) + 1):
        for chain in itertools.combinations(sizes, count):
            for cuts in itertools.combinations(range(grid, length, grid), count - 1):
                bounds = (0, *cuts, length)
                finish = 0.0
                for size, (start, stop) in zip(chain, itertools.pairwise(bounds), strict=True):
                    finish = max(finish, order[size - 1])
                    finish += model.predict(size, start, stop - start)
                best = min(best, finish)
    return best


@pytest.mark.parametrize("seed", range(12))
def test_no_plan_beats_an_exhaustive_search_over_nested_groups(seed):
    rng = random.Random(seed)
    length, grid = 64_000, 800
    delays = [rng.uniform(0, 3) for _ in range(4)]
    planner = Planner(Policy((1, 2, 4), 0.0, 1))
    plan = planner.plan(length, view_of(delays), A100)
    # The grid misses the optimum by at most what a grid step costs on the slowest size.
    slack = 2 * (A100.predict(1, length, grid) - A100.predict(1, length, 0))
    assert plan.ttft >= exhaustive(length, delays, (1, 2, 4), A100, grid) - slack
    # Algorithm 1 never grows beyond the size of the best single chunk; up to there it is near
    # the optimum.
    largest = Planner(replace(planner.policy, name="single-chunk")).plan(
        length, view_of(delays), A100
    )
    sizes = tuple(size for size in (1, 2, 4) if size <= largest.chunks[-1].size)
    assert plan.ttft <= exhaustive(length, delays, sizes, A100, grid) * 1.02


def test_a_larger_size_must_bring_more_than_the_improvement_rate():
    model = LatencyModel({1: Curve(0, 1e-3, 0, 0), 2: Curve(0, 0.75e-3, 0, 0)})
    size = {
        rate: Planner(Policy((1, 2), rate, 1)).plan(1000, view_of([0, 0]), model).chunks[-1].size
        for rate in (0.0, 0.2, 0.25, 0.5)
    }
    # 25 % is exactly the gain: strictly less is asked for.
    assert size == {0.0: 2, 0.2: 2, 0.25: 1, 0.5: 1}


def test_the_first_candidate_is_taken_even_when_larger_ones_are_not_worth_it():
    plan = Planner(Policy((4, 8), 0.9, 128)).plan(100_000, view_of([0.0] * 8), A100)
    assert [chunk.size for chunk in plan.chunks] == [4]


def test_short_first_chunks_are_left_out():
    view = view_of([0.0, 0.5])
    free = Planner(Policy((1, 2), 0.0, 1)).plan(60_000, view, A100)
    assert [chunk.size for chunk in free.chunks] == [1, 2]
    bound = Policy((1, 2), 0.0, free.chunks[0].length + 1)
    assert [chunk.size for chunk in Planner(bound).plan(60_000, view, A100).chunks] == [2]


def test_a_pool_without_a_usable_size_is_named():
    with pytest.raises(RequestFailed, match="sp_size_candidates"):
        Planner(Policy((2, 4), 0.1, 128)).plan(1000, view_of([0.0]), A100)


def test_groups_are_reused_within_one_search():
    groups = Groups.of(view_of([0.3, 0.1, 0.2, 0.0]))
    assert groups.extend(groups.start, 2) is groups.extend(groups.start, 2)
