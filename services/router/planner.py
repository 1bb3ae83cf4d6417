"""Chunkwise dynamic sequence parallelism: the chunks of a prompt and their groups.

A plain object: it reads a view of the pool and answers with a plan, whose books others keep.

Source:
    Tetris (arXiv 2511.06247) Algorithms 1-3; specification, section 6.
"""

import math
from typing import NamedTuple

from common.errors import RequestFailed
from common.latency import LatencyModel
from common.messages import Chunk
from services.router.groups import Group, Groups
from services.router.plan import Plan, Policy, PoolView


class Step(NamedTuple):
    """One chunk under consideration; `wait` and `predicted` in seconds."""

    length: int
    group: Group
    wait: float
    predicted: float


class State(NamedTuple):
    """Where a search stands: chunks so far, the pool left, members, tokens and seconds spent."""

    done: tuple[Step, ...]
    groups: Groups
    members: Group
    history: int
    passed: float


class Planner:
    """Algorithm 1 under one policy; `chunkwise` False leaves Algorithm 2 alone."""

    def __init__(self, policy: Policy, *, chunkwise: bool = True) -> None:
        self.policy = policy
        self.chunkwise = chunkwise

    def plan(self, length: int, view: PoolView, model: LatencyModel) -> Plan:
        """The plan with the least estimated TTFT for a prompt of `length` tokens, >= 1.

        Raises:
            RequestFailed: no SP candidate is both in the model and within the pool.
        """
        sizes = usable_sizes(self.policy.sizes, view, model)
        groups = Groups.of(view)
        search = _Search(length, self.policy, model)
        start = State((), groups, groups.empty, 0, 0.0)
        if self.chunkwise:
            search.explore(start, sizes)
        else:
            search.close(start, sizes)
        return _plan(search.best, search.best_ttft, view, self.policy)


def usable_sizes(sizes: tuple[int, ...], view: PoolView, model: LatencyModel) -> tuple[int, ...]:
    """The candidates that the pool can host and the model knows.

    Raises:
        RequestFailed: there is none.
    """
    usable = tuple(size for size in sizes if size <= len(view.names) and size in model.curves)
    if not usable:
        raise RequestFailed(
            f"no SP size of router.sp_size_candidates {list(sizes)} fits {len(view.names)} "
            f"prefill instances and the latency model's sizes {list(model.sizes)}"
        )
    return usable


class _Search:
    """Algorithm 1, keeping the best plan found so far.

    Delays are those of now: what is left of one after `passed` seconds is max(0, delay - passed),
    the same as the specification's reduced pool.
    """

    def __init__(self, length: int, policy: Policy, model: LatencyModel) -> None:
        self._length = length
        self._keep = 1 - policy.rate
        self._min_chunk = max(1, policy.min_chunk)
        self._model = model
        self._curves = model.curves
        self._least = min(model.predict(size, 0, self._min_chunk) for size in model.curves)
        self.best: tuple[Step, ...] = ()
        self.best_ttft = math.inf

    def explore(self, at: State, sizes: tuple[int, ...]) -> None:
        """Close the plan with one chunk, then try every chunk that may come before that one.

        Earlier chunks keep to the instances of the one that they prepare.
        """
        last = self.close(at, sizes)
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
                if later < self.best_ttft:
                    history = at.history + step.length
                    then = State((*at.done, step), groups, group, history, later)
                    self.explore(then, smaller[rest:])

    def close(self, at: State, sizes: tuple[int, ...]) -> Group:
        """The group that finishes the rest first, if worth its size; kept if the best.

        The first of `sizes` is always accepted.

        Source:
            Algorithm 2.
        """
        done, groups, members, history, passed = at
        length = self._length - history
        best, finish, wait = members, math.inf, 0.0
        for size in sizes:
            group = members.next.get(size) or groups.extend(members, size)
            waits = group.delay - passed if group.delay > passed else 0.0
            a, b, c, d = self._curves[size]
            ends = waits + a + length * (b + c * history + d * length)
            if ends < finish * self._keep:
                best, finish, wait = group, ends, waits
        if passed + finish < self.best_ttft:
            self.best_ttft = passed + finish
            predicted = self._model.predict(best.size, history, length)
            self.best = (*done, Step(length, best, wait, predicted))
        return best

    def _chunk(self, group: Group, following: Group, at: State) -> Step | None:
        """The chunk of `group` that fills the wait for `following`; None if it does not pay off.

        Source:
            Algorithm 3.
        """
        wait = group.delay - at.passed if group.delay > at.passed else 0.0
        budget = following.delay - at.passed - wait
        length = self._model.solve(group.size, at.history, budget)
        if length < self._min_chunk or length >= self._length - at.history:
            return None
        return Step(length, group, wait, self._model.predict(group.size, at.history, length))


def _plan(steps: tuple[Step, ...], ttft: float, view: PoolView, policy: Policy) -> Plan:
    chunks, history = [], 0
    for step in steps:
        chunks.append(Chunk(history, step.length, step.group.size))
        history += step.length
    return Plan(
        chunks=tuple(chunks),
        members=tuple(view.names[index] for index in steps[-1].group.members),
        predicted=tuple(step.predicted for step in steps),
        ttft=ttft,
        view=view,
        policy=policy,
    )
