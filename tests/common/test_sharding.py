from itertools import chain

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.messages import Chunk
from common.sharding import history, moves, num_tokens, owner_of_last, shards


@st.composite
def plans(draw: st.DrawFn) -> list[Chunk]:
    """Chunks of a prompt whose groups never shrink."""
    sizes = sorted(draw(st.lists(st.integers(1, 9), min_size=1, max_size=5)))
    chunks, passed = [], 0
    for size in sizes:
        length = draw(st.integers(1, 300))
        chunks.append(Chunk(passed, length, size))
        passed += length
    return chunks


def positions(intervals) -> list[int]:
    return [position for start, stop in intervals for position in range(start, stop)]


def held_after(chunks, index):
    """What the members hold when chunk `index` has run."""
    held = history(chunks, index)
    return [
        positions(intervals) + positions(shards(chunks[index], rank))
        for rank, intervals in enumerate(held)
    ]


@given(plans())
def test_shards_cut_every_chunk_into_parts_that_differ_by_less_than_two_tokens(chunks):
    for chunk in chunks:
        own = [positions(shards(chunk, rank)) for rank in range(chunk.size)]
        assert sorted(chain(*own)) == list(range(chunk.history, chunk.history + chunk.length))
        assert all(abs(len(part) - chunk.length / chunk.size) < 2 for part in own)


@given(plans())
def test_every_member_has_the_same_causal_work_within_a_few_rows(chunks):
    for chunk in chunks:
        work = [
            sum(p - chunk.history + 1 for p in positions(shards(chunk, rank)))
            for rank in range(chunk.size)
        ]
        even = chunk.length * (chunk.length + 1) / 2 / chunk.size
        assert all(abs(part - even) <= 2 * chunk.length + 1 for part in work)


@given(plans())
def test_the_owner_of_the_last_token_holds_it(chunks):
    for chunk in chunks:
        last = chunk.history + chunk.length - 1
        assert last in positions(shards(chunk, owner_of_last(chunk)))


@given(plans())
def test_history_holds_every_earlier_token_exactly_once(chunks):
    for index, chunk in enumerate(chunks):
        held = history(chunks, index)
        assert len(held) == chunk.size
        assert sorted(chain(*map(positions, held))) == list(range(chunk.history))


@given(plans())
def test_new_members_hold_an_even_part_of_the_history(chunks):
    for index, chunk in enumerate(chunks):
        if index and chunk.size > chunks[index - 1].size:
            for intervals in history(chunks, index)[chunks[index - 1].size :]:
                assert abs(num_tokens(intervals) - chunk.history / chunk.size) < 1


@given(plans())
def test_old_members_hold_at_most_two_tokens_per_chunk_more_than_even(chunks):
    for index, chunk in enumerate(chunks):
        for intervals in history(chunks, index):
            assert num_tokens(intervals) < chunk.history / chunk.size + 2 * index + 1


@given(plans())
def test_moves_lead_from_what_was_held_to_the_next_history_and_only_from_old_to_new(chunks):
    for index in range(1, len(chunks)):
        held = held_after(chunks, index - 1)
        old = len(held)
        held += [[] for _ in range(chunks[index].size - old)]
        for move in moves(chunks, index):
            assert move.sender < old <= move.receiver
            given_away = positions(move.intervals)
            assert given_away and given_away == held[move.sender][-len(given_away) :]
            del held[move.sender][-len(given_away) :]
            held[move.receiver] += given_away
        assert held == [positions(intervals) for intervals in history(chunks, index)]


@given(plans())
def test_nobody_sends_twice_to_the_same_member(chunks):
    for index in range(len(chunks)):
        pairs = [(move.sender, move.receiver) for move in moves(chunks, index)]
        assert len(pairs) == len(set(pairs))


def test_a_doubled_group_halves_what_every_old_member_holds():
    chunks = [Chunk(0, 512, 2), Chunk(512, 512, 4)]
    assert [num_tokens(intervals) for intervals in history(chunks, 1)] == [128] * 4
    assert [(move.sender, move.receiver) for move in moves(chunks, 1)] == [(0, 2), (1, 3)]


def test_a_group_of_the_same_size_moves_nothing():
    assert moves([Chunk(0, 10, 2), Chunk(10, 10, 2)], 1) == []


def test_a_shrinking_group_is_refused():
    with pytest.raises(ValueError, match="may not shrink"):
        history([Chunk(0, 10, 2), Chunk(10, 10, 1)], 1)
