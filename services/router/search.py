"""Algorithms 1-3 over one pool, in plain Python.

`_search.c` does the same, operation by operation, many times faster; the planner takes it where
it has been built. Both give identical plans, and a test holds them to it.

Source:
    Tetris (arXiv 2511.06247) Algorithms 1-3; specification, section 6.
"""

import math
from collections.abc import Iterable
from typing import NamedTuple

from common.latency import Curve, predict, solve
from services.router.groups import Group, Groups
from services.router.plan import PoolView
from services.router.trace import (
    NOT_SHORTER,
    TOO_LATE,
    TOO_SHORT,
    Chain,
    Closed,
    Dropped,
    Looked,
    Priced,
    Trace,
)


class Problem(NamedTuple):
    """What a search is to solve.

    Args:
        length: tokens to plan, history not counted.
        history: tokens that need no computing, spread over `members`.
        members: instances (indices into the view) that every group has to hold.
        sizes: SP candidates, ascending, each between the members' and the pool's number.
        curves: the latency model of each size.
        keep: 1 - improvement rate.
        min_chunk: tokens; a chunk before the last one that is shorter does not pay off.
        chunkwise: whether more than one chunk may be tried.
        price: seconds of TTFT that one instance is worth for a second; None for the paper's rule,
            where the improvement rate decides.
        fewest: with a price, instances of the last group at least.
    """

    length: int
    history: int
    members: tuple[int, ...]
    view: PoolView
    sizes: tuple[int, ...]
    curves: tuple[Curve, ...]
    keep: float
    min_chunk: int
    chunkwise: bool
    price: float | None
    fewest: int


class Step(NamedTuple):
    """One chunk; `wait` before it and `predicted` for it in seconds."""

    length: int
    size: int
    wait: float
    predicted: float


class Found(NamedTuple):
    """The best plan; `members` in joining order."""

    ttft: float
    steps: tuple[Step, ...]
    members: tuple[int, ...]


class _State(NamedTuple):
    """Where a search stands: chunks so far, the pool left, members, tokens and seconds spent."""

    done: tuple[Step, ...]
    groups: Groups
    members: Group
    history: int
    passed: float


def search(problem: Problem, trace: Trace | None = None) -> Found:
    """The plan with the least TTFT, or with the least price.

    Args:
        problem: to solve.
        trace: takes what the search looks at.
    """
    groups = Groups.of(problem.view, problem.members)
    start = _State((), groups, groups.start, problem.history, 0.0)
    if problem.price is None:
        found = _Search(problem, trace)
        found.run(start, problem.sizes)
        return found.best
    return _cheapest(problem, start, problem.price, trace)


def cost(ttft: float, delays: Iterable[float], price: float) -> float:
    """TTFT and the price of the instances that a plan keeps until then.

    Args:
        ttft: of the plan.
        delays: of its instances, seconds.
        price: seconds of TTFT that one instance is worth for a second.
    """
    taken = 0.0
    for delay in delays:
        taken += ttft - delay
    return ttft + price * taken


def _cheapest(problem: Problem, start: _State, price: float, trace: Trace | None) -> Found:
    """Of the fastest plans that end with each size, the one whose TTFT and instances cost least.

    Source:
        The queue price, TTFT + price * (seconds for which the plan keeps its instances).
    """
    delays = problem.view.delays
    best, least = None, math.inf
    for count, size in enumerate(problem.sizes, 1):
        if size < problem.fewest and count < len(problem.sizes):
            continue
        one = _Search(problem, trace, only_last=True)
        one.run(start, problem.sizes[:count])
        ttft, members = one.best.ttft, one.best.members
        paid = cost(ttft, [delays[index] for index in members], price)
        if trace is not None:
            trace.append(Priced(ttft, paid, least))
        if paid < least:
            best, least = one.best, paid
    assert best is not None, "there is at least one size"
    return best


class _Search:
    """Algorithm 1, keeping the best plan found so far.

    Delays are those of now: what is left of one after `passed` seconds is max(0, delay - passed),
    the same as the specification's reduced pool.
    """

    def __init__(
        self, problem: Problem, trace: Trace | None = None, *, only_last: bool = False
    ) -> None:
        self._end = problem.history + problem.length
        self._keep = problem.keep
        self._min_chunk = max(1, problem.min_chunk)
        self._curves = dict(zip(problem.sizes, problem.curves, strict=True))
        self._chunkwise = problem.chunkwise
        self._only_last = only_last
        self._trace = trace
        self._least = min(predict(curve, 0, self._min_chunk) for curve in problem.curves)
        self.best = Found(math.inf, (), ())

    def run(self, start: _State, sizes: tuple[int, ...]) -> None:
        """Search; the answer is `best`."""
        if self._chunkwise:
            self._explore(start, sizes)
        else:
            self._close(start, sizes)

    def _explore(self, at: _State, sizes: tuple[int, ...]) -> None:
        """Close the plan with one chunk, then try every chunk that may come before that one.

        Earlier chunks keep to the instances of the one that they prepare.
        """
        last = self._close(at, sizes)
        smaller = sizes[: sizes.index(last.size) + 1]
        # Whatever fills a gap takes this long, and no gap is longer than the last chunk's wait.
        if len(smaller) == 1 or last.delay - at.passed < self._least:
            return
        groups, members = at.groups.within(last, at.members)
        for index, size in enumerate(smaller[:-1], 1):
            group = groups.extend(members, size)
            for rest, next_size in enumerate(smaller[index:], index):
                following = group.next.get(next_size) or groups.extend(group, next_size)
                # Most groups wait no less than the next one: nothing to fill.
                if following.delay <= group.delay or following.delay <= at.passed:
                    continue
                step = self._chunk(group, following, at)
                if step is None:
                    continue
                later = at.passed + step.wait + step.predicted
                # A plan only grows: one that is late already cannot become the best.
                if later < self.best.ttft:
                    history = at.history + step.length
                    then = _State((*at.done, step), groups, group, history, later)
                    self._explore(then, smaller[rest:])
                elif self._trace is not None:
                    self._trace.append(
                        Dropped(_chain(at.done), size, next_size, step.length, TOO_LATE, later)
                    )

    def _close(self, at: _State, sizes: tuple[int, ...]) -> Group:
        """The group that finishes the rest first, if worth its size; kept if the best.

        The first of `sizes` is always accepted.

        Source:
            Algorithm 2.
        """
        done, groups, members, history, passed = at
        length = self._end - history
        best, finish, wait, trace = members, math.inf, 0.0, self._trace
        for size in sizes[-1:] if self._only_last else sizes:
            group = members.next.get(size) or groups.extend(members, size)
            waits = group.delay - passed if group.delay > passed else 0.0
            a, b, c, d = self._curves[size]
            ends = waits + a + length * (b + c * history + d * length)
            if trace is not None:
                needed = finish * self._keep
                trace.append(
                    Looked(
                        before=_chain(done),
                        members=group.members,
                        wait=waits,
                        ttft=passed + ends,
                        needed=passed + needed,
                        accepted=ends < needed,
                    )
                )
            if ends < finish * self._keep:
                best, finish, wait = group, ends, waits
        if trace is not None:
            trace.append(Closed(_chain(done), sizes, best.size))
        if passed + finish < self.best.ttft:
            step = Step(length, best.size, wait, predict(self._curves[best.size], history, length))
            self.best = Found(passed + finish, (*done, step), best.members)
        return best

    def _chunk(self, group: Group, following: Group, at: _State) -> Step | None:
        """The chunk of `group` that fills the wait for `following`; None if it does not pay off.

        Source:
            Algorithm 3.
        """
        wait = group.delay - at.passed if group.delay > at.passed else 0.0
        budget = following.delay - at.passed - wait
        curve = self._curves[group.size]
        length = solve(curve, at.history, budget)
        if length < self._min_chunk or length >= self._end - at.history:
            if self._trace is not None:
                reason = TOO_SHORT if length < self._min_chunk else NOT_SHORTER
                self._trace.append(
                    Dropped(_chain(at.done), group.size, following.size, length, reason, None)
                )
            return None
        return Step(length, group.size, wait, predict(curve, at.history, length))


def _chain(done: tuple[Step, ...]) -> Chain:
    return tuple([(step.size, step.length) for step in done])
