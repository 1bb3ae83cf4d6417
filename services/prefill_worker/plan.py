"""What a member can tell from a chunk's plan alone."""

from common.messages import RunChunk
from common.pages import Owner


def owner_of(run: RunChunk) -> Owner:
    """The attempt that a chunk belongs to."""
    return Owner(run.request, run.attempt)


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
