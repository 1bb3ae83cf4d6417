import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.messages import Chunk
from common.pages import PAGE, Owner, PagePool
from common.sharding import history, moves, num_tokens, shards
from services.router.memory import Memory, member_slots, round_up, single_chunk_slots

OWNER = Owner("r", 1)


def chunks_of(sizes, lengths):
    chunks, start = [], 0
    for size, length in zip(sizes, lengths, strict=True):
        chunks.append(Chunk(start, length, size))
        start += length
    return tuple(chunks)


@given(st.lists(st.integers(1, 700), min_size=1, max_size=4), st.data())
def test_a_member_needs_what_it_allocates_when_it_frees_nothing(lengths, data):
    sizes = sorted(data.draw(st.sampled_from((1, 2, 3, 4, 8))) for _ in lengths)
    chunks = chunks_of(sizes, lengths)
    for rank in range(sizes[-1]):
        pool = PagePool(10_000)
        for index, chunk in enumerate(chunks):
            if rank >= chunk.size:
                continue
            received = [move for move in moves(chunks, index) if move.receiver == rank]
            pool.allocate(OWNER, sum(num_tokens(move.intervals) for move in received))
            pool.allocate(OWNER, num_tokens(shards(chunk, rank)))
            # Never less than what the ring reads: its share of the history and its own shards.
            share = num_tokens(history(chunks, index)[rank]) + num_tokens(shards(chunk, rank))
            assert pool.total_slots - pool.free_slots >= share
        assert member_slots(chunks, rank) == pool.total_slots - pool.free_slots


@given(st.integers(1, 5000), st.integers(1, 16))
def test_no_member_of_a_single_chunk_needs_more_than_stated(length, size):
    chunks = chunks_of([size], [length])
    assert max(member_slots(chunks, rank) for rank in range(size)) <= single_chunk_slots(
        length, size
    )


def test_pages_are_whole():
    assert [round_up(tokens) for tokens in (0, 1, PAGE, PAGE + 1)] == [0, PAGE, PAGE, 2 * PAGE]


def test_promises_are_kept_until_each_instance_releases_them():
    memory = Memory()
    memory.join("a", 100)
    memory.join("b", 100)
    memory.reserve(OWNER, {"a": 30, "b": 40}, {"a": 1, "b": 1})
    assert memory.free() == {"a": 70, "b": 60}
    assert memory.release(OWNER, "a")
    assert not memory.release(OWNER, "a")
    assert not memory.release(OWNER, "nobody")
    assert memory.free() == {"a": 100, "b": 60}
    assert memory.owners == {OWNER}
    memory.leave("b")
    assert memory.owners == set()
    assert memory.totals() == {"a": 100}


@pytest.mark.parametrize(
    ("held", "finished", "released"),
    [({OWNER: 30}, 5, False), ({}, 3, False), ({}, 4, True), ({}, 5, True)],
)
def test_a_lost_release_is_repaired_once_the_last_turn_is_over(held, finished, released):
    memory = Memory()
    memory.join("a", 100)
    memory.reserve(OWNER, {"a": 30}, {"a": 4})
    assert memory.reconcile("a", held, finished) == ([OWNER] if released else [])
    assert (memory.owners == set()) is released


def test_what_nobody_was_promised_counts_as_long_as_it_is_there():
    memory = Memory()
    memory.join("a", 100)
    other = Owner("other", 1)
    memory.reserve(OWNER, {"a": 30}, {"a": 1})
    memory.reconcile("a", {OWNER: 16, other: 48}, 0)
    assert memory.free() == {"a": 22}
    assert memory.owners == {OWNER, other}
    assert memory.release(other, "a")
    assert memory.free() == {"a": 70}
    memory.reconcile("a", {other: 48}, 0)
    memory.reconcile("a", {}, 1)
    assert memory.free() == {"a": 100}
    memory.reconcile("a", {other: 48}, 1)
    memory.reserve(other, {"a": 64}, {"a": 2})
    assert memory.free() == {"a": 36}


def test_all_promises_are_told():
    memory = Memory()
    for name in "ab":
        memory.join(name, 100)
    other = Owner("other", 1)
    memory.reserve(OWNER, {"a": 30, "b": 16}, {"a": 1, "b": 1})
    memory.reconcile("a", {OWNER: 16, other: 48}, 0)
    assert list(memory.promises) == [("a", OWNER, 30), ("b", OWNER, 16)]
