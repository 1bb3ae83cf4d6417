"""Algorithm 1 beside the optimum of 1,000 small pools.

Its plans are within 1 % of the optimum wherever it may choose the optimum. Where it may not, it is
10 % off on average, so over *all* pools the 99th percentile is far above 1 %; what is asserted of
those is what was measured. The same search over every last size is within 1 % in all pools of one
node. `python -m tests.bench.bench_optimum` prints the tables and lists the forced pools.
"""

import itertools

import numpy as np
import pytest

from tests.services.router.optimum import MODEL, Verdict, judge, paper_case, random_case

POOLS = 1000


@pytest.fixture(scope="module", params=(random_case, paper_case))
def verdicts(request) -> list[Verdict]:
    return [judge(request.param(seed)) for seed in range(POOLS)]


def percent(gaps: list[float]) -> np.ndarray:
    return 100 * np.array(gaps)


def test_plans_are_within_one_percent_of_the_optimum_where_algorithm_1_may_choose_it(verdicts):
    gaps = percent([one.gap for one in verdicts if not one.forced])
    assert len(gaps) >= 0.8 * POOLS
    assert np.percentile(gaps, 99) <= 0.01
    assert gaps.max() <= 1


def test_forced_pools_are_few_and_their_gap_is_known(verdicts):
    forced = percent([one.gap for one in verdicts if one.forced])
    assert len(forced) <= 0.18 * POOLS
    assert forced.mean() <= 13
    everywhere = percent([one.gap for one in verdicts])
    assert everywhere.mean() <= 2
    assert np.percentile(everywhere, 99) <= 31


def test_trying_every_last_size_is_within_one_percent_of_the_optimum_in_all_pools_of_one_node(
    verdicts,
):
    gaps = percent([one.free_gap for one in verdicts if len(set(one.case.view.nodes)) == 1])
    assert len(gaps) >= 0.5 * POOLS
    assert np.percentile(gaps, 99) <= 0.01
    assert gaps.max() <= 1


def test_no_plan_is_better_than_the_optimum(verdicts):
    assert min(one.gap for one in verdicts) >= -1e-12


def test_the_optimum_is_a_plan_that_takes_as_long_as_it_says(verdicts):
    for one in verdicts:
        delays = dict(zip(one.case.view.names, one.case.view.delays, strict=True))
        finish, done, before = 0.0, 0, frozenset()
        for group, end in one.best.chunks:
            assert before < group
            finish = max(finish, *(delays[name] for name in group))
            finish += MODEL.predict(len(group), done, end - done)
            done, before = end, group
        assert done == one.case.length
        assert finish == pytest.approx(one.best.ttft, rel=1e-12)


def test_groups_nest_lengths_add_up_and_no_single_chunk_is_faster(verdicts):
    for one in verdicts:
        chunks = one.plan.chunks
        assert sum(chunk.length for chunk in chunks) == one.case.length
        groups = [set(one.plan.group(index)) for index in range(len(chunks))]
        assert all(before < group for before, group in itertools.pairwise(groups))
        assert len(groups[-1]) == chunks[-1].size
        assert one.plan.ttft <= one.single.ttft
