"""A plan and all that it was chosen from, as JSON; times are seconds.

`tetris plan --json` prints it, and the router answers with it when somebody asks why.
"""

import math

from msgspec import Struct

from services.router.explain import Candidate, Explanation
from services.router.plan import Plan, Policy, Reused
from services.router.prefix import Share


class ChunkAnswer(Struct, frozen=True):
    """One chunk; `start` from now."""

    length: int
    history: int
    group: tuple[str, ...]
    start: float
    seconds: float


class CandidateAnswer(Struct, frozen=True, omit_defaults=True):
    """See `services.router.explain.Candidate`; `needed` is left out where nothing had to be.

    Of a large group only the first names may be there.
    """

    size: int
    group: tuple[str, ...]
    delay: float
    ttft: float
    accepted: bool
    verdict: str
    needed: float | None = None
    fastest: float | None = None
    cost: float | None = None


class ChunkingAnswer(Struct, frozen=True):
    """See `services.router.explain.Chunking`."""

    sizes: tuple[int, ...]
    lengths: tuple[int, ...]
    ttft: float | None
    dropped: str | None
    chosen: bool


class ShareAnswer(Struct, frozen=True):
    """One share of a cached prefix; `cost` is what the policy minimises."""

    reused: Reused
    ttft: float
    cost: float


class PlanAnswer(Struct, frozen=True):
    """The plan, by what it was made, and all that it was chosen from."""

    policy: Policy
    ttft: float
    reused: Reused
    chunks: tuple[ChunkAnswer, ...]
    candidates: tuple[CandidateAnswer, ...]
    chunkings: tuple[ChunkingAnswer, ...]
    shares: tuple[ShareAnswer, ...]


def plan_answer(told: Explanation, shares: list[Share]) -> PlanAnswer:
    """The answer for one explained plan."""
    plan = told.plan
    return PlanAnswer(
        policy=plan.policy,
        ttft=plan.ttft,
        reused=plan.reused,
        chunks=_chunks(plan),
        candidates=tuple(_candidate(one) for one in told.candidates),
        chunkings=tuple(
            ChunkingAnswer(one.sizes, one.lengths, one.ttft, one.dropped, one.chosen)
            for one in told.chunkings
        ),
        shares=tuple(
            ShareAnswer(share.plan.reused, share.plan.ttft, share.cost) for share in shares
        ),
    )


def _chunks(plan: Plan) -> tuple[ChunkAnswer, ...]:
    rows = zip(plan.chunks, plan.starts, plan.predicted, strict=True)
    return tuple(
        ChunkAnswer(chunk.length, chunk.history, plan.group(index), start, seconds)
        for index, (chunk, start, seconds) in enumerate(rows)
    )


def _candidate(one: Candidate) -> CandidateAnswer:
    needed = None if one.needed is None or math.isinf(one.needed) else one.needed
    return CandidateAnswer(
        size=one.size,
        group=one.members,
        delay=one.delay,
        ttft=one.ttft,
        accepted=one.accepted,
        verdict=verdict(one),
        needed=needed,
        fastest=one.fastest,
        cost=one.cost,
    )


def verdict(one: Candidate) -> str:
    """Why a candidate was accepted or not, in words."""
    if one.needed is None:
        return "free first" if one.accepted else "not earlier"
    if math.isinf(one.needed):
        return "accepted, the first one"
    what = "cost" if one.cost is not None else "TTFT"
    if one.accepted:
        return f"accepted, {what} below {one.needed:.3f}"
    return f"needs a {what} below {one.needed:.3f}"
