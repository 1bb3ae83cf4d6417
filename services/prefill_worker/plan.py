"""What a member can tell from a chunk's plan alone."""

from common.messages import Cancel, EndOfRequest, Interval, Member, RingAbort, RunChunk
from common.pages import Owner
from common.sharding import shards


def owner_of(run: RunChunk) -> Owner:
    """The attempt that a chunk belongs to."""
    return Owner(run.request, run.attempt)


def me(run: RunChunk) -> Member:
    """This member, as the life that the chunk was issued to."""
    return run.members[run.rank]


def others(run: RunChunk) -> list[tuple[int, Member]]:
    """The rest of the chunk's group, with their ranks."""
    group = run.members[: run.chunks[run.index].size]
    return [(rank, member) for rank, member in enumerate(group) if rank != run.rank]


def abort_of(run: RunChunk) -> RingAbort:
    """How this member tells the group that it leaves."""
    return RingAbort(run.request, run.attempt, run.rank, me(run).incarnation)


def scored(run: RunChunk, num_ids: int) -> list[Interval]:
    """Prompt positions that this member scores: of the ids that follow its own.

    Only the chunk's last token needs the look-ahead id, which the chunk's `num_ids` ids may hold.
    """
    chunk = run.chunks[run.index]
    stop = chunk.history + num_ids
    own = shards(chunk, run.rank)
    after = [(first + 1, min(last + 1, stop)) for first, last in own if first < last]
    return [(first, last) for first, last in after if first < last]


def is_given_up(message: EndOfRequest | Cancel) -> bool:
    """Whether an attempt ended before it was through, so that nobody wants anything of it."""
    return isinstance(message, Cancel) or message.reason in ("error", "abort")


def is_sound(run: RunChunk) -> bool:
    """Whether the plan holds together, so that it can be computed with."""
    sizes = [chunk.size for chunk in run.chunks]
    stops = [chunk.history + chunk.length for chunk in run.chunks]
    return (
        run.index < len(sizes)
        and run.rank < sizes[run.index]
        and sizes == sorted(sizes)
        and sizes[-1] == len(run.members)
        and [chunk.history for chunk in run.chunks] == [0, *stops[:-1]]
    )
