import pytest

from common.latency import Curve, LatencyModel, Sample
from common.pages import Owner
from services.router.measuring import Measured
from services.router.speeds import CHUNKS, PROBE, Speeds

MODEL = LatencyModel({size: Curve(0.0, 1e-3 / size, 0.0, 0.0) for size in (1, 2)})


def chunk(seconds, *names, computes=None):
    """A chunk that takes a second where nobody is slow."""
    size = len(names)
    parts = dict(zip(names, computes or [seconds] * size, strict=True))
    return Measured(Owner("r", 1), Sample(size, 0, 1000 * size, seconds), 1.0, parts)


def given(*chunks, now=0.0):
    speeds = Speeds()
    for one in chunks:
        speeds.take(one, MODEL, now)
    return speeds


def test_three_slow_chunks_make_an_instance_slow_and_a_usual_one_makes_it_usual_again():
    speeds = given(chunk(1.0, "a"), chunk(1.0, "c"), chunk(5.0, "b"), chunk(5.0, "b"))
    assert speeds.slow == frozenset()
    speeds.take(chunk(5.0, "b"), MODEL, 1.0)
    assert speeds.slow == {"b"}
    assert speeds.usable(("a", "b", "c")) == {"a", "c"}
    assert speeds.factor("b") == pytest.approx(5.0)
    assert speeds.factor("a") == 1.0
    assert speeds.factor("new") == 1.0
    speeds.take(chunk(1.2, "b"), MODEL, 2.0)
    assert speeds.slow == frozenset()


def test_in_a_ring_only_who_holds_up_the_others_is_slow():
    speeds = given(*[chunk(5.0, "a", "b", computes=(1.0, 5.0)) for _ in range(CHUNKS)])
    assert speeds.slow == {"b"}


def test_when_all_are_equally_slow_nobody_is():
    slow = [chunk(4.0, name) for name in ("a", "b") for _ in range(CHUNKS)]
    assert given(*slow).slow == frozenset()
    assert given(*slow[:CHUNKS]).slow == frozenset()


def test_where_only_slow_ones_are_left_they_are_used():
    speeds = given(chunk(1.0, "a"), *[chunk(5.0, "b") for _ in range(CHUNKS)])
    assert speeds.usable(("b",)) == {"b"}
    assert speeds.usable(()) == frozenset()


def test_another_model_judges_the_same_chunks_anew():
    # Chunks of 100 tokens alone are slow everywhere; the model does not know of it yet.
    short = Measured(Owner("r", 1), Sample(1, 0, 100, 1.0), 0.1, {"b": 1.0})
    speeds = given(chunk(1.0, "a"), *[short] * CHUNKS)
    assert speeds.slow == {"b"}
    speeds.judge(LatencyModel({1: Curve(0.95, 5e-5, 0.0, 0.0)}))
    assert speeds.slow == frozenset()


def test_a_slow_instance_is_tried_again_after_a_while():
    speeds = given(chunk(1.0, "a"), *[chunk(5.0, "b") for _ in range(CHUNKS)], now=10.0)
    assert speeds.due(10.0 + PROBE - 0.1) == []
    assert speeds.due(10.0 + PROBE) == ["b"]
    speeds.tried("b", 10.0 + PROBE)
    assert speeds.due(10.0 + PROBE) == []


def test_an_instance_that_leaves_is_forgotten():
    speeds = given(chunk(1.0, "a"), *[chunk(5.0, "b") for _ in range(CHUNKS)])
    speeds.leave("b")
    assert speeds.slow == frozenset()
    assert speeds.due(1000.0) == []
    speeds.judge(MODEL)
    assert speeds.slow == frozenset()
