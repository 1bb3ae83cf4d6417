"""Why a plan is as it is, recomputed from what it stores; planning itself pays nothing for it.

The search runs once more with a trace, always the one in Python. A plan that does not come out
again, chunk by chunk and bit by bit, has no explanation.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Final

from common.latency import LatencyModel
from services.router import search
from services.router.fixed import fixed
from services.router.forced import forced_plan
from services.router.plan import Plan
from services.router.planner import plan_of, problem_of
from services.router.search import Problem
from services.router.trace import Chain, Closed, Dropped, Looked, Priced, Trace

NO_GAP: Final = "no gap"
"""The next group waits no longer, or not as long as any chunk of `min_chunk` tokens takes."""
NOT_WORTH: Final = "not worth its size"
OUTDONE: Final = "a larger size is better"


@dataclass(frozen=True, slots=True)
class Candidate:
    """One size, or one fixed group, for the whole prompt; seconds.

    Args:
        delay: until all members are free.
        ttft: with the whole prompt in one chunk.
        needed: what `ttft` had to stay below to be accepted, or `cost` where there is one;
            infinite for the first candidate, None for fixed groups: the first free one is taken.
        fastest: TTFT of the fastest plan that ends with this size, under `cdsp-priced`.
        cost: of that plan with its instances, under `cdsp-priced`.
    """

    size: int
    members: tuple[str, ...]
    delay: float
    ttft: float
    needed: float | None
    accepted: bool
    fastest: float | None = None
    cost: float | None = None


@dataclass(frozen=True, slots=True)
class Chunking:
    """One way to cut the prompt, whole or up to where it was dropped.

    Args:
        sizes: SP size of each chunk; for one that was dropped before its last chunk, also the
            size that it would have gone on with.
        lengths: tokens of the chunks that were looked at.
        ttft: seconds; None where it was not asked for. Of one that was too late already, when its
            last chunk so far ends.
        dropped: why it was not followed or not taken at once; None for a whole one that competed.
        chosen: whether this is the plan.
    """

    sizes: tuple[int, ...]
    lengths: tuple[int, ...]
    ttft: float | None
    dropped: str | None = None
    chosen: bool = False


@dataclass(frozen=True, slots=True)
class Explanation:
    """All that was looked at for one plan, in that order; a forced plan has no candidates."""

    plan: Plan
    candidates: tuple[Candidate, ...]
    chunkings: tuple[Chunking, ...]

    @property
    def chosen(self) -> Chunking:
        """The plan among the chunkings."""
        return next(chunking for chunking in self.chunkings if chunking.chosen)


def explain(plan: Plan, model: LatencyModel, most: int | None = None) -> Explanation:
    """Every candidate and every chunking that this plan was chosen from.

    Args:
        plan: to be explained.
        model: latency model that it was made with.
        most: looks and choices that its search may take, for those whose time is short.

    Raises:
        ValueError: its inputs lead to another plan, such as with another latency model; or its
            search takes more.
    """
    if plan.forced is not None:
        again = forced_plan(plan.forced, plan.length, plan.view, plan.policy, model)
        _equal(plan, again)
        return Explanation(plan, (), (_as_chunking(plan),))
    length = plan.length - plan.reused.tokens
    problem = problem_of(plan.policy, length, plan.view, model, plan.reused)
    trace: Trace = [] if most is None else _Bounded(most)
    found = (fixed if plan.policy.name == "fixed-sp" else search.search)(problem, trace)
    _equal(plan, plan_of(found, plan.view, plan.policy, plan.reused))
    runs = list(_runs(trace))
    candidates = [one for run in runs for one in _candidates(run, plan.view.names)]
    chunkings = [one for run in runs for one in _Reading(run, problem).chunkings()]
    return Explanation(plan, tuple(candidates), tuple(_marked(chunkings, plan)))


class _Bounded(Trace):
    """A trace that takes no more than so many events."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self._most = most

    def append(self, event: Looked | Closed | Dropped | Priced) -> None:
        if len(self) >= self._most:
            raise ValueError(f"the search takes more than {self._most} steps to tell of")
        super().append(event)


def _equal(plan: Plan, again: Plan) -> None:
    if again != plan:
        raise ValueError(f"not reproduced: planned {plan}, recomputed {again}")


def _as_chunking(plan: Plan) -> Chunking:
    sizes = tuple(chunk.size for chunk in plan.chunks)
    return Chunking(sizes, tuple(chunk.length for chunk in plan.chunks), plan.ttft, chosen=True)


def _marked(chunkings: Sequence[Chunking], plan: Plan) -> Iterator[Chunking]:
    """The chunkings, the first one that is the plan as the chosen one."""
    chosen, is_marked = _as_chunking(plan), False
    for chunking in chunkings:
        if not is_marked and replace(chunking, chosen=True) == chosen:
            is_marked = True
            yield chosen
        else:
            yield chunking
    assert is_marked, "the search has closed the plan that it has found"


def _runs(trace: Trace) -> Iterator[Trace]:
    """What belongs together: all of it, or the events of each last size up to its price."""
    run: Trace = []
    for event in trace:
        run.append(event)
        if isinstance(event, Priced):
            yield run
            run = []
    if run:
        yield run


def _candidates(run: Trace, names: tuple[str, ...]) -> Iterator[Candidate]:
    last = run[-1]
    for event in run:
        if not isinstance(event, Looked) or event.before:
            continue
        members = tuple(names[index] for index in event.members)
        one = Candidate(len(members), members, event.wait, event.ttft, event.needed, event.accepted)
        if isinstance(last, Priced):
            one = replace(
                one,
                needed=last.needed,
                accepted=last.cost < last.needed,
                fastest=last.ttft,
                cost=last.cost,
            )
        yield one


class _Reading:
    """The chunkings of one run of the search.

    Events stand as the search went, so what became of a pair of sizes is either the next event or
    nothing, and then there was no gap.
    """

    def __init__(self, run: Trace, problem: Problem) -> None:
        self._run = run
        self._at = 0
        self._is_chunkwise = problem.chunkwise
        self._end = problem.length

    def chunkings(self) -> Iterator[Chunking]:
        """The plan that is closed next, and all that came of chunks before its last one."""
        looked = list(self._take_looked())
        closed = self._run[self._at]
        assert isinstance(closed, Closed), "a look is followed by a choice"
        self._at += 1
        yield from (self._closed(one, closed) for one in looked)
        sizes = closed.sizes[: closed.sizes.index(closed.size) + 1]
        for size, following in combinations(sizes if self._is_chunkwise else (), 2):
            yield from self._pair(closed.before, size, following)

    def _take_looked(self) -> Iterator[Looked]:
        while isinstance(looked := self._run[self._at], Looked):
            self._at += 1
            yield looked

    def _closed(self, looked: Looked, closed: Closed) -> Chunking:
        size = len(looked.members)
        dropped = None
        if size != closed.size:
            dropped = OUTDONE if looked.accepted else NOT_WORTH
        left = self._end - sum(length for _, length in looked.before)
        return _chunking((*looked.before, (size, left)), (), looked.ttft, dropped)

    def _pair(self, before: Chain, size: int, following: int) -> Iterator[Chunking]:
        event = self._run[self._at] if self._at < len(self._run) else None
        match event:
            case Dropped() if (event.before, event.size, event.following) == (
                before,
                size,
                following,
            ):
                self._at += 1
                chain = (*before, (size, event.length))
                yield _chunking(chain, (following,), event.ends, event.reason)
            case Looked() if event.before[:-1] == before and self._begins(size, following):
                yield from self.chunkings()
            case _:
                yield _chunking(before, (size, following), None, NO_GAP)

    def _begins(self, size: int, following: int) -> bool:
        """Whether a chunk of `size` for `following` comes next."""
        at = self._at
        while not isinstance(closed := self._run[at], Closed):
            at += 1
        return closed.before[-1:] != () and (closed.before[-1][0], closed.sizes[0]) == (
            size,
            following,
        )


def _chunking(
    chain: Chain, sizes: tuple[int, ...], ttft: float | None, dropped: str | None
) -> Chunking:
    return Chunking(
        sizes=(*(size for size, _ in chain), *sizes),
        lengths=tuple(length for _, length in chain),
        ttft=ttft,
        dropped=dropped,
    )
