import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import OutOfPages, RequestFailed
from common.messages import Held
from common.pages import PAGE, PagePool, num_slots
from common.sharding import history, shards
from services.prefill_worker.holdings import Holdings
from tests.services.prefill_worker.plans import plan, run_chunk


def slots(spans):
    return [slot for span in spans for slot in range(*span)]


def positions(intervals):
    return [position for interval in intervals for position in range(*interval)]


class World:
    """Which prompt position every slot of every member holds, as the engine would write it."""

    def __init__(self, size, num_pages=64):
        self.holdings = [Holdings(PagePool(num_pages)) for _ in range(size)]
        self.cache = [{} for _ in range(size)]

    def run(self, chunks, index):
        opened = [
            self.holdings[rank].open(run_chunk(chunks, index, rank))
            for rank in range(chunks[index].size)
        ]
        for rank, mine in enumerate(opened):
            for move, spans in mine.given:
                target = dict(opened[move.receiver].taken)[move]
                given = [self.cache[rank][slot] for slot in slots(spans)]
                assert given == positions(move.intervals)
                self.cache[move.receiver] |= dict(zip(slots(target), given, strict=True))
            own = positions(shards(chunks[index], rank))
            self.cache[rank] |= dict(zip(slots(mine.own), own, strict=True))
        for rank, mine in enumerate(opened):
            held = [self.cache[rank][slot] for slot in slots(mine.history)]
            assert held == positions(history(chunks, index)[rank])


@given(
    st.lists(st.tuples(st.integers(1, 4), st.integers(1, 60)), min_size=1, max_size=5).map(
        lambda parts: [(length, size) for size, length in sorted(parts)]
    )
)
@settings(deadline=None)
def test_slots_hold_the_positions_that_the_plan_says(parts):
    chunks = plan(*parts)
    world = World(4)
    for index in range(len(chunks)):
        world.run(chunks, index)
    for rank, holdings in enumerate(world.holdings):
        for index, chunk in enumerate(chunks):
            if rank < chunk.size:
                own = [world.cache[rank][slot] for slot in slots(holdings.spans("r", 1, index))]
                assert own == positions(shards(chunk, rank))
        holdings.release("r", 1)
        assert holdings.free_slots == holdings.total_slots


def test_what_was_given_away_stays_readable_until_release():
    chunks = plan((64, 1), (64, 2))
    holdings = Holdings(PagePool(16))
    own = holdings.open(run_chunk(chunks, 0, 0)).own
    second = holdings.open(run_chunk(chunks, 1, 0))
    assert num_slots(second.history) == 32
    assert not set(slots(second.own)) & set(slots(own))
    assert holdings.spans("r", 1, 0) == own
    assert holdings.held() == (Held("r", 1, 96),)


def test_a_member_that_lacks_the_history_refuses():
    chunks = plan((64, 1), (64, 1))
    holdings = Holdings(PagePool(16))
    with pytest.raises(RequestFailed, match="holds 0 tokens of the history, the plan says 64"):
        holdings.open(run_chunk(chunks, 1, 0))


def test_a_chunk_of_an_ended_attempt_is_refused_and_the_next_attempt_is_not():
    chunks = plan((64, 1))
    holdings = Holdings(PagePool(16))
    holdings.release("r", 1)
    with pytest.raises(RequestFailed, match="already ended"):
        holdings.open(run_chunk(chunks, 0, 0))
    assert num_slots(holdings.open(run_chunk(chunks, 0, 0, attempt=2)).own) == 64


def test_a_full_pool_refuses():
    holdings = Holdings(PagePool(2))
    with pytest.raises(OutOfPages):
        holdings.open(run_chunk(plan((3 * PAGE, 1)), 0, 0))


def test_release_is_idempotent_and_unknown_requests_hold_nothing():
    holdings = Holdings(PagePool(16))
    holdings.open(run_chunk(plan((20, 1)), 0, 0))
    for _ in range(2):
        holdings.release("r", 1)
    assert holdings.spans("r", 1, 0) == [] and holdings.held() == ()
    assert holdings.free_slots == holdings.total_slots == 16 * PAGE
