import pytest

from common.errors import RequestFailed
from common.latency import LatencyModel
from services.router.forced import forced_plan, parse
from services.router.plan import Policy, PoolView

A100 = LatencyModel.load("a100-llama3-8b")


def shape(text, length):
    return [(chunk.history, chunk.length, chunk.size) for chunk in parse(text, length, A100)]


def test_sizes_alone_split_the_prompt_evenly():
    assert shape("1,2,4", 10) == [(0, 3, 1), (3, 3, 2), (6, 4, 4)]
    assert shape("2", 7) == [(0, 7, 2)]


def test_the_last_chunk_takes_what_explicit_lengths_leave():
    assert shape("1:512,2:1024,4", 2000) == [(0, 512, 1), (512, 1024, 2), (1536, 464, 4)]


def test_equal_sizes_may_follow_each_other():
    assert shape("2,2", 5) == [(0, 2, 2), (2, 3, 2)]


@pytest.mark.parametrize(
    ("text", "length", "reason"),
    [
        ("", 10, "positive integer"),
        ("1,,2", 10, "positive integer"),
        ("0", 10, "positive integer"),
        ("-1", 10, "positive integer"),
        ("1.5", 10, "positive integer"),
        ("9999999999", 10, "positive integer"),
        ("4,2", 10, "shrink"),
        ("3", 10, "latency model"),
        ("1,1,1", 2, "without any"),
        ("1:10,2", 10, "without any"),
        ("1:5,2:5", 10, "neither"),
        ("1:5,2,4", 10, "neither"),
        ("1:2:3,2", 10, "neither"),
        (",".join(["1"] * 65), 1000, "at most 64"),
    ],
)
def test_a_wrong_demand_is_refused_with_its_reason(text, length, reason):
    with pytest.raises(RequestFailed, match=reason):
        parse(text, length, A100)


def test_a_forced_plan_takes_the_instances_that_are_free_first():
    view = PoolView(("a", "b", "c", "d"), ("n",) * 4, (3.0, 0.0, 1.0, 2.0))
    plan = forced_plan("1:1000,2:1000,4", 5000, view, Policy((1,), 0, 1), A100)
    assert plan.members == ("b", "c", "d", "a")
    assert plan.forced == "1:1000,2:1000,4"
    first, second, third = plan.predicted
    finish = max(first, 1.0) + second
    assert plan.ttft == pytest.approx(max(finish, 3.0) + third)
    with pytest.raises(RequestFailed, match="there are 4"):
        forced_plan("8", 5000, view, Policy((1,), 0, 1), A100)
