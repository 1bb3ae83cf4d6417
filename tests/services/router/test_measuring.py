import pytest

from common.latency import Curve, LatencyModel, Sample
from common.messages import Chunk, ChunkDone
from common.pages import Owner
from services.router.measuring import MAX_OPEN, Measured, Measuring
from services.router.pool import Task

OWNER = Owner("r", 1)
CHUNK = Chunk(history=100, length=1000, size=2)


def task(seq=7, **turns):
    return Task(seq, OWNER, 0, turns or {"p0": 3, "p1": 5}, 2.0)


def part(name, turn, compute, wait=0.0, balance=0.0, gather=0.0, seq=7):
    return ChunkDone(name, 1, seq, turn, *OWNER, 0, compute, wait, balance, 0.0, 0, 0, gather)


def test_a_group_is_occupied_from_its_last_member_s_coming_to_its_slowest_one_s_end():
    measuring = Measuring()
    measuring.expect(task(), CHUNK)
    # p0 came four seconds before p1 and waited for a second inside the ring.
    assert measuring.take(part("p0", 3, compute=1.5, wait=5.0, balance=0.25, gather=4.0)) is None
    measured = measuring.take(part("p1", 5, compute=2.5, wait=0.1, balance=0.2))
    assert measured.owner == OWNER
    assert measured.sample == Sample(2, 100, 1000, pytest.approx(2.8))
    assert measured.ratio == pytest.approx(1.4)
    assert measured.computes == {"p0": 1.5, "p1": 2.5}
    assert measuring.take(part("p1", 5, compute=2.5)) is None


def test_who_repeats_itself_or_belongs_elsewhere_does_not_count():
    measuring = Measuring()
    measuring.expect(task(), CHUNK)
    for stray in (part("p2", 1, 1.0), part("p0", 4, 1.0), part("p0", 3, 1.0, seq=8)):
        assert measuring.take(stray) is None
    assert measuring.take(part("p0", 3, 1.0)) is None
    assert measuring.take(part("p0", 3, 1.0)) is None
    assert measuring.take(part("p1", 5, 1.0)) is not None


def test_chunks_that_somebody_never_finishes_are_given_up_in_time():
    measuring = Measuring()
    for seq in range(MAX_OPEN + 1):
        measuring.expect(task(seq, p0=1), CHUNK)
    assert measuring.take(part("p0", 1, 1.0, seq=0)) is None
    assert measuring.take(part("p0", 1, 1.0, seq=1)) is not None


def test_a_chunk_that_took_no_time_says_nothing():
    measuring = Measuring()
    measuring.expect(task(p0=1), CHUNK)
    assert measuring.take(part("p0", 1, 0.0)) is None


@pytest.mark.parametrize(
    ("computes", "is_even"),
    [((1.0,), True), ((1.0, 1.9), True), ((1.0, 2.1), False), ((1.0, 2.1, 2.2), True)],
)
def test_one_member_that_holds_up_the_others_makes_a_chunk_uneven(computes, is_even):
    parts = {f"p{index}": compute for index, compute in enumerate(computes)}
    assert Measured(OWNER, Sample(1, 0, 1, 1.0), 1.0, parts).is_even == is_even


def test_a_member_answers_for_its_own_share_of_a_chunk():
    model = LatencyModel({2: Curve(0.0, 1e-3, 0.0, 0.0)})
    measured = Measured(OWNER, Sample(2, 0, 1000, 5.0), 1.0, {"slow": 4.0, "fast": 1.0})
    assert measured.own_ratio("slow", model) == pytest.approx(5.0)
    assert measured.own_ratio("fast", model) == pytest.approx(1.25)


def test_a_part_is_news_once_and_only_of_a_member_of_a_chunk_under_way():
    measuring = Measuring()
    assert not measuring.lacks(part("p0", 3, 1.0))
    measuring.expect(task(), CHUNK)
    assert measuring.lacks(part("p0", 3, 1.0))
    for stray in (part("p2", 1, 1.0), part("p0", 4, 1.0), part("p0", 3, 1.0, seq=8)):
        assert not measuring.lacks(stray)
    measuring.take(part("p0", 3, 1.0))
    assert not measuring.lacks(part("p0", 3, 1.0))
    assert measuring.lacks(part("p1", 5, 1.0))
    measuring.take(part("p1", 5, 1.0))
    assert not measuring.lacks(part("p1", 5, 1.0))
