"""Who holds which prompt positions: zigzag shards of a chunk, evenly spread history.

Integers only. Every member computes the same answer from the plan alone, so positions never
travel. An interval is (start, stop) in prompt positions; a member's history is a list of them,
in the order in which they lie in its cache.

Source:
    Specification, section 4.
"""

from collections.abc import Sequence
from typing import NamedTuple

from common.messages import Chunk, Interval


class Move(NamedTuple):
    """History that an old member gives to a new one before a chunk."""

    sender: int
    receiver: int
    intervals: tuple[Interval, ...]


def num_tokens(intervals: Sequence[Interval]) -> int:
    """Tokens in a list of intervals."""
    return sum(stop - start for start, stop in intervals)


def shards(chunk: Chunk, rank: int) -> tuple[Interval, Interval]:
    """The two zigzag shards of `rank`, in prompt positions; either may be empty.

    A chunk is cut into 2s nearly equal shards; rank i holds shards i and 2s-1-i, so that the
    causal work is equal on every member.
    """
    pieces = 2 * chunk.size
    return _piece(chunk, rank, pieces), _piece(chunk, pieces - 1 - rank, pieces)


def owner_of_last(chunk: Chunk) -> int:
    """The rank that holds the chunk's last token."""
    last = chunk.history + chunk.length
    return next(
        rank
        for rank in range(chunk.size)
        if any(start < stop == last for start, stop in shards(chunk, rank))
    )


def history(chunks: Sequence[Chunk], index: int) -> list[tuple[Interval, ...]]:
    """What each member of chunk `index` holds of the history when its ring starts."""
    held: list[tuple[Interval, ...]] = [()] * chunks[0].size
    for position in range(index):
        held = _with_shards(_balanced(held, chunks[position])[0], chunks[position])
    return _balanced(held, chunks[index])[0]


def moves(chunks: Sequence[Chunk], index: int) -> list[Move]:
    """The balancing before chunk `index`; empty unless its group has grown.

    Old members only send and new ones only receive, since groups nest.
    """
    if index == 0:
        return []
    before = chunks[index - 1]
    return _balanced(_with_shards(history(chunks, index - 1), before), chunks[index])[1]


def _piece(chunk: Chunk, shard: int, pieces: int) -> Interval:
    return (
        chunk.history + shard * chunk.length // pieces,
        chunk.history + (shard + 1) * chunk.length // pieces,
    )


def _with_shards(held: Sequence[tuple[Interval, ...]], chunk: Chunk) -> list[tuple[Interval, ...]]:
    return [
        intervals + tuple(piece for piece in shards(chunk, rank) if piece[0] < piece[1])
        for rank, intervals in enumerate(held)
    ]


def _balanced(
    held: Sequence[tuple[Interval, ...]], chunk: Chunk
) -> tuple[list[tuple[Interval, ...]], list[Move]]:
    """Spread what the old members hold over the chunk's group, taking from each list's end."""
    old, new = len(held), chunk.size
    if new < old:
        raise ValueError(f"a group may not shrink: {old} members before, {new} now")
    spread = [*held, *[()] * (new - old)]
    transfers: list[Move] = []
    wanted = {
        rank: (rank + 1) * chunk.history // new - rank * chunk.history // new for rank in range(new)
    }
    sender = 0
    for receiver in range(old, new):
        missing = wanted[receiver]
        while missing and sender < old:
            surplus = num_tokens(spread[sender]) - wanted[sender]
            if surplus <= 0:
                sender += 1
                continue
            kept, given = _split(spread[sender], min(surplus, missing))
            spread[sender] = kept
            spread[receiver] = spread[receiver] + given
            transfers.append(Move(sender, receiver, given))
            missing -= num_tokens(given)
    return spread, transfers


def _split(
    intervals: tuple[Interval, ...], count: int
) -> tuple[tuple[Interval, ...], tuple[Interval, ...]]:
    """Cut the last `count` tokens off: (kept, given), both in their old order."""
    kept, given = list(intervals), []
    while count:
        start, stop = kept.pop()
        cut = max(start, stop - count)
        given.append((cut, stop))
        count -= stop - cut
        if start < cut:
            kept.append((start, cut))
    return tuple(kept), tuple(reversed(given))
