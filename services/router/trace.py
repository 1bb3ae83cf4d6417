"""What a search looked at, in the order in which it did: written only when explanations ask.

A plan that is closed stands after the sizes that its last chunk could have had, and is followed
by what came of the pairs of sizes that could have come before that chunk. Pairs without a gap
leave nothing.
"""

from typing import Final, NamedTuple

Chain = tuple[tuple[int, int], ...]
"""SP size and tokens of chunk after chunk."""

TOO_SHORT: Final = "too short"
NOT_SHORTER: Final = "not shorter than what is left"
TOO_LATE: Final = "already later than the best"


class Looked(NamedTuple):
    """One group for all that is left of a prompt; seconds from now, `wait` from the chunk before.

    Args:
        before: chunks before it.
        members: of the group, indices into the view.
        wait: for the group.
        ttft: of the whole plan, were this the last chunk.
        needed: what `ttft` had to stay below; None where that is not what decides.
        accepted: whether it did.
    """

    before: Chain
    members: tuple[int, ...]
    wait: float
    ttft: float
    needed: float | None
    accepted: bool


class Closed(NamedTuple):
    """The last chunk is chosen.

    Args:
        before: chunks before it.
        sizes: candidates for it, ascending.
        size: the chosen one.
    """

    before: Chain
    sizes: tuple[int, ...]
    size: int


class Dropped(NamedTuple):
    """A chunk that was not worth going on with.

    Args:
        before: chunks before it.
        size: of its group.
        following: size of the group for which it would have filled the wait.
        length: tokens that fill the wait.
        reason: one of those above.
        ends: seconds from now until its end; None where it was not asked for.
    """

    before: Chain
    size: int
    following: int
    length: int
    reason: str
    ends: float | None


class Priced(NamedTuple):
    """A search for the fastest plan that ends with one size is over.

    Args:
        ttft: of that plan.
        cost: TTFT and the price of its instances, seconds.
        needed: what the cost had to stay below; infinite for the first one.
    """

    ttft: float
    cost: float
    needed: float


Trace = list[Looked | Closed | Dropped | Priced]
