import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.messages import ChunkTimes, Joining, Times
from gateway.window.components import FIRST, SECOND, SKEW, of_first, of_second

START = 1_700_000_000.0


def at(seconds: float) -> float:
    return START + seconds


def chunk(arrived: float, begun: float, gathered: float, ended: float, balance: float = 0.0):
    return ChunkTimes(at(arrived), at(begun), at(gathered), at(ended), balance)


TIMES = Times(
    received=at(0.03),
    planned=at(0.13),
    chunks=(chunk(0.15, 0.25, 0.30, 0.80), chunk(0.15, 0.85, 0.95, 1.45, 0.10)),
    sampled=at(1.46),
)


def test_every_second_of_a_ttft_belongs_to_one_part() -> None:
    parts = of_first(START, at(0.02), TIMES, at(1.48))
    assert parts.seconds == pytest.approx(
        {
            "tokenize": 0.02,
            "admission": 0.01,
            # In the router's queue, for the turn, for the group, and the same of the next chunk.
            "queue": 0.10 + 0.10 + 0.05 + 0.05 + 0.10,
            "plan": 0.02,
            "balance": 0.10,
            "prefill": 0.50 + 0.40 + 0.01,
            "deliver": 0.02,
        },
        abs=1e-6,
    )
    assert not parts.skewed


def test_a_chunk_that_came_only_after_the_one_before_was_planned_late() -> None:
    late = (chunk(0.15, 0.15, 0.15, 0.80), chunk(0.90, 1.00, 1.00, 1.46))
    parts = of_first(START, at(0.02), Times(at(0.03), at(0.13), late, at(1.46)), at(1.46))
    assert parts.seconds["plan"] == pytest.approx(0.02 + 0.10, abs=1e-6)
    assert parts.seconds["queue"] == pytest.approx(0.10 + 0.10, abs=1e-6)


def test_clocks_that_contradict_each_other_are_noticed_from_5_ms_on() -> None:
    for ahead, skewed in ((0.004, False), (0.006, True)):
        times = Times(at(0.02 - ahead), at(0.13), TIMES.chunks, TIMES.sampled)
        parts = of_first(START, at(0.02), times, at(1.48))
        assert parts.skewed is skewed
        assert parts.moved == pytest.approx(ahead, abs=1e-6)
        assert sum(parts.seconds.values()) == pytest.approx(1.48, abs=1e-6)
    late = Times(at(0.03), at(0.13), TIMES.chunks, at(9.0))
    assert of_first(START, at(0.02), late, at(1.48)).seconds["deliver"] == 0.0
    assert of_first(START, at(0.02), late, at(1.48)).skewed


walls = st.floats(0, 1e12)
times = st.builds(
    Times,
    walls,
    walls,
    st.lists(st.builds(ChunkTimes, walls, walls, walls, walls, st.floats(0, 1e9)), max_size=4),
    walls,
)


@given(times, st.floats(-10, 10), st.floats(0, 1000))
def test_the_parts_are_never_negative_and_add_up_whatever_the_clocks_say(
    told: Times, ready: float, ttft: float
) -> None:
    came = START + ttft
    parts = of_first(START, at(ready), told, came)
    assert tuple(parts.seconds) == FIRST
    assert all(seconds >= -1e-9 for seconds in parts.seconds.values())
    assert sum(parts.seconds.values()) == pytest.approx(came - START, abs=1e-9)


def joining(committed: float, begun: float) -> Joining:
    return Joining("r", 1, at(committed), at(begun))


def test_the_second_token_waits_for_its_kv_for_the_batch_and_for_the_step() -> None:
    parts = of_second(at(1.0), joining(1.3, 1.4), at(1.9))
    assert parts.seconds == pytest.approx({"transfer": 0.3, "admit": 0.1, "step": 0.5}, abs=1e-6)
    assert not parts.skewed


@given(walls, walls, walls, walls)
def test_the_parts_of_the_second_token_add_up_as_well(
    sampled: float, committed: float, begun: float, came: float
) -> None:
    parts = of_second(sampled, Joining("r", 1, committed, begun), came)
    assert tuple(parts.seconds) == SECOND
    total = max(0.0, came - sampled)
    assert all(seconds >= 0 for seconds in parts.seconds.values())
    assert sum(parts.seconds.values()) == pytest.approx(total, rel=1e-9, abs=1e-9)
    assert parts.skewed or came >= sampled - SKEW
