import pytest
from msgspec import structs

from common.messages import Chunk
from common.pages import Owner
from services.prefill_worker.plan import is_sound, owner_of
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
