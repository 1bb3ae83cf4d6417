import pytest
from msgspec import structs

from common.messages import Cancel, Chunk, EndOfRequest, RingAbort
from common.pages import Owner
from services.prefill_worker.plan import (
    abort_of,
    is_given_up,
    is_sound,
    me,
    others,
    owner_of,
    scored,
)
from tests.services.prefill_worker.plans import plan, run_chunk


@pytest.mark.parametrize(("index", "rank"), [(0, 0), (1, 0), (1, 1)])
def test_plans_whose_chunks_follow_each_other_and_whose_groups_nest_are_sound(
    index: int, rank: int
) -> None:
    assert is_sound(run_chunk(plan((8, 1), (3, 2)), index, rank))


@pytest.mark.parametrize(
    "changes",
    [
        {"index": 1},
        {"rank": 1},
        {"members": ()},
        {"chunks": (Chunk(1, 8, 1),)},
        {"chunks": (Chunk(0, 8, 1), Chunk(7, 8, 1))},
        {"chunks": (Chunk(0, 8, 2), Chunk(8, 8, 1))},
    ],
)
def test_plans_that_do_not_hold_together_are_not_sound(changes: dict[str, object]) -> None:
    assert not is_sound(structs.replace(run_chunk(plan((8, 1)), 0, 0), **changes))


def test_a_chunk_belongs_to_its_attempt() -> None:
    assert owner_of(run_chunk(plan((8, 1)), 0, 0, request="a", attempt=3)) == Owner("a", 3)


def test_a_group_is_the_first_members_of_the_plan_and_all_but_this_one_are_others():
    chunks = plan((8, 1), (8, 2), (8, 4))
    first, second, third = (run_chunk(chunks, index, 0) for index in range(3))
    assert others(first) == []
    assert [rank for rank, _ in others(second)] == [1]
    assert [(rank, member.name) for rank, member in others(third)] == [
        (1, "m1"),
        (2, "m2"),
        (3, "m3"),
    ]
    last = run_chunk(chunks, 2, 3)
    assert me(last) == last.members[3]
    assert abort_of(last) == RingAbort("r", 1, 3, 4)


@pytest.mark.parametrize("sizes", [(1,), (2,), (4,), (1, 2), (1, 2, 4), (3, 4)], ids=str)
@pytest.mark.parametrize("length", [3, 7, 17, 200])
def test_every_position_but_the_first_is_scored_by_one_member(
    length: int, sizes: tuple[int, ...]
) -> None:
    share = length // len(sizes)
    lengths = [share] * (len(sizes) - 1)
    chunks = plan(*zip([*lengths, length - sum(lengths)], sizes, strict=True))
    positions = [
        position
        for index, chunk in enumerate(chunks)
        for rank in range(chunk.size)
        for first, stop in scored(
            run_chunk(chunks, index, rank), min(chunk.length + 1, length - chunk.history)
        )
        for position in range(first, stop)
    ]
    assert sorted(positions) == list(range(1, length))


def test_an_attempt_is_given_up_unless_it_came_to_its_end() -> None:
    ends = {reason: is_given_up(EndOfRequest("r", 1, 4, reason)) for reason in ("stop", "length")}
    assert ends == {"stop": False, "length": False}
    assert is_given_up(EndOfRequest("r", 1, 0, "abort"))
    assert is_given_up(EndOfRequest("r", 1, 0, "error"))
    assert is_given_up(Cancel("r", 1))
