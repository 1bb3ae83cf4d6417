"""The least TTFT that any plan on a small pool can have, and how far Algorithm 1 is from it.

Every plan is tried: every chain of nested groups whose sizes are candidates, placed as the
specification places groups (own nodes first, then whole nodes, the remainder in one), and every
place to cut the prompt. How early a group can have finished the first tokens of the prompt is all
that matters to what follows, so chains are not listed one by one: it is the shortest way over
groups and cuts. Cuts are a grid, the exact places at which a chunk fills the wait for its
successor, and finer grids around the best ones down to one token.

Algorithm 1 does not try every plan: what it has not closed with one chunk is confined to the group
which would finish a single chunk first, at the start and again after every chunk; and its chunks
fill a wait, while the optimum may have one only in order to place the next group elsewhere. Where
the optimum breaks such a rule, the pool is *forced*.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from common.latency import LatencyModel
from services.router.groups import Groups
from services.router.plan import Plan, Policy, PoolView
from services.router.planner import Planner

MODEL = LatencyModel.load("a100-llama3-8b")
SIZES = (1, 2, 4, 8)
GRID = 64
WINDOW = 12

Counts = tuple[int, ...]
"""A group, as how many of the shortest-queued instances of each node it has."""
Forced = Literal["", "first", "later", "placing"]
"""What Algorithm 1 cannot choose: the group of the first chunk's plan or of a later one's, or a
chunk that fills no wait."""


class Case(NamedTuple):
    length: int
    view: PoolView


class Best(NamedTuple):
    """A plan: seconds, and for each chunk its group and the token at which it ends."""

    ttft: float
    chunks: tuple[tuple[frozenset[str], int], ...]


@dataclass(frozen=True)
class Verdict:
    """Gaps are relative; `free_gap` is that of `cdsp-priced` at price 0.

    That one tries every last size instead of the best single chunk's.
    """

    case: Case
    plan: Plan
    single: Plan
    best: Best
    forced: Forced
    free_gap: float

    @property
    def gap(self) -> float:
        return self.plan.ttft / self.best.ttft - 1


def random_case(seed: int) -> Case:
    """2 to 8 instances on one or two nodes; idle ones, short and long queues."""
    rng = random.Random(seed)
    count = rng.randint(2, 8)
    first = rng.choice((count, rng.randint(1, count)))
    top = rng.choice((0.3, 1.0, 3.0, 10.0))
    idle = rng.choice((0.0, 0.3))
    delays = [0.0 if rng.random() < idle else rng.uniform(0, top) for _ in range(count)]
    names = tuple(f"p{index}" for index in range(count))
    nodes = tuple("a" if index < first else "b" for index in range(count))
    return Case(round(2 ** rng.uniform(10, 18)), PoolView(names, nodes, tuple(delays)))


def paper_case(seed: int) -> Case:
    """Eight instances on one node, drawn as for the paper's planner cost."""
    rng = random.Random(seed)
    names = tuple(f"p{index}" for index in range(8))
    delays = tuple(rng.uniform(0, 3) for _ in names)
    return Case(rng.randint(4096, 262144), PoolView(names, ("a",) * 8, delays))


def judge(case: Case) -> Verdict:
    """Algorithm 1 without regulation beside the optimum."""
    plan = Planner(Policy(SIZES, 0.0, 1)).plan(case.length, case.view, MODEL)
    single = Planner(Policy(SIZES, 0.0, 1, "single-chunk")).plan(case.length, case.view, MODEL)
    # In a smaller pool more placements are legal.
    within = optimum(case.length, case.view.only(frozenset(single.members)))
    best = min(optimum(case.length, case.view), within, key=lambda one: one.ttft)
    free = Planner(Policy(SIZES, 0.0, 1, "cdsp-priced")).plan(case.length, case.view, MODEL)
    why = forced(case, best) if plan.ttft > best.ttft else ""
    return Verdict(case, plan, single, best, why, free.ttft / best.ttft - 1)


def forced(case: Case, best: Best) -> Forced:
    """Where Algorithm 1 could not go on with a plan, whatever its chunks' lengths."""
    names, sizes = case.view.names, SIZES
    groups = Groups.of(case.view)
    at, done, passed = groups.start, 0, 0.0
    for index, (group, end) in enumerate(best.chunks):
        finish, single = np.inf, at
        for size in (size for size in sizes if size <= len(names)):
            one = groups.extend(at, size)
            ends = max(0.0, one.delay - passed) + MODEL.predict(size, done, case.length - done)
            if ends < finish:
                finish, single = ends, one
        last = {names[member] for member in single.members}
        groups, at = groups.within(single, at)
        if best.chunks[-1][0] <= last:
            at = groups.extend(at, len(group))
        if {names[member] for member in at.members} != group:
            return "later" if index else "first"
        begin = max(passed, at.delay)
        if end < case.length:
            following = groups.extend(at, len(best.chunks[index + 1][0]))
            if MODEL.solve(at.size, done, following.delay - begin) < 1:
                return "placing"
        passed = begin + MODEL.predict(at.size, done, end - done)
        done = end
        sizes = tuple(size for size in sizes if at.size < size <= single.size)
    return ""


def optimum(length: int, view: PoolView) -> Best:
    """The plan with the least TTFT."""
    search = Optimum(length, view)
    cuts = set(np.linspace(0, length, GRID + 1).astype(int).tolist()) | search.filling_cuts()
    best = search.shortest(cuts)
    step = length // GRID
    while step > 0:
        used = {end for _, end in best.chunks}
        near = {cut + step * k // WINDOW for cut in used for k in range(-WINDOW, WINDOW + 1)}
        best = search.shortest({cut for cut in near | used if 0 <= cut <= length})
        step = 0 if step == 1 else max(1, 2 * step // WINDOW)
    return best


class Optimum:
    """All groups of a pool, which can follow which, and the shortest way through them."""

    def __init__(self, length: int, view: PoolView) -> None:
        self.length = length
        nodes: dict[str, list[tuple[float, str]]] = {}
        for name, node, delay in zip(view.names, view.nodes, view.delays, strict=True):
            nodes.setdefault(node, []).append((delay, name))
        self.queues = [sorted(queue, key=lambda pair: pair[0]) for queue in nodes.values()]
        self.start: Counts = (0,) * len(nodes)
        self.steps: list[tuple[Counts, Counts]] = []
        self._follow(self.start, set())
        self.steps.sort(key=lambda step: sum(step[1]))

    def delay(self, group: Counts) -> float:
        pairs = zip(self.queues, group, strict=True)
        return max((queue[count - 1][0] for queue, count in pairs if count), default=0.0)

    def names(self, group: Counts) -> frozenset[str]:
        pairs = zip(self.queues, group, strict=True)
        return frozenset(name for queue, count in pairs for _, name in queue[:count])

    def shortest(self, cuts: set[int]) -> Best:
        """The least TTFT with chunks that end at `cuts`."""
        ends = np.array(sorted(cuts | {0, self.length}))
        start = self.start
        # finish[g][i]: when a chunk on g that ends at token ends[i] has finished, at the earliest.
        finish = {start: np.where(ends == 0, 0.0, np.inf)}
        came: dict[Counts, list[tuple[Counts, int]]] = {}
        lengths = ends[None, :] - ends[:, None]
        for before, group in self.steps:
            a, b, c, d = MODEL.curves[sum(group)]
            takes = a + lengths * (b + c * ends[:, None] + d * lengths)
            begins = np.maximum(finish[before], self.delay(group))
            times = np.where(lengths > 0, begins[:, None] + takes, np.inf)
            first = times.argmin(axis=0)
            times = times[first, np.arange(len(ends))]
            known = finish.setdefault(group, np.full(len(ends), np.inf))
            ways = came.setdefault(group, [(start, 0)] * len(ends))
            for index in np.flatnonzero(times < known):
                known[index] = times[index]
                ways[index] = (before, int(first[index]))
        group = min(came, key=lambda group: finish[group][-1])
        ttft, chunks, index = float(finish[group][-1]), [], len(ends) - 1
        while group != start:
            chunks.append((self.names(group), int(ends[index])))
            group, index = came[group][index]
        return Best(ttft, tuple(reversed(chunks)))

    def filling_cuts(self) -> set[int]:
        """Where chunks end that fill the wait for the next one, along every chain of groups."""
        cuts: set[int] = set()
        following: dict[Counts, list[Counts]] = {}
        for before, group in self.steps:
            following.setdefault(before, []).append(group)

        def fill(group: Counts, done: int, passed: float) -> None:
            size = sum(group)
            for then in following.get(group, ()):
                begin = max(passed, self.delay(group))
                chunk = MODEL.solve(size, done, self.delay(then) - begin)
                end = done + chunk
                if chunk > 0 and end < self.length:
                    cuts.update((end, end + 1))
                    fill(then, end, begin + MODEL.predict(size, done, chunk))

        for first in following.get(self.start, ()):
            fill(first, 0, 0.0)
        return cuts

    def _follow(self, group: Counts, reached: set[Counts]) -> None:
        for size in SIZES:
            if sum(group) < size <= sum(map(len, self.queues)):
                for then in extensions(group, size, tuple(map(len, self.queues))):
                    self.steps.append((group, then))
                    if then not in reached:
                        reached.add(then)
                        self._follow(then, reached)


def extensions(group: Counts, size: int, nodes: Counts) -> set[Counts]:
    """All groups of `size` that `group` may grow to by the placement rule."""
    free = [total - count for total, count in zip(nodes, group, strict=True)]
    own = [count if held else 0 for count, held in zip(free, group, strict=True)]
    other = [0 if held else count for count, held in zip(free, group, strict=True)]
    need = size - sum(group)
    found = set()
    for joined in placements(own, min(need, sum(own))):
        for more in placements(other, need - sum(joined)):
            found.add(tuple(map(sum, zip(group, joined, more, strict=True))))
    return found


def placements(free: list[int], need: int) -> Iterator[Counts]:
    """All in one node that is large enough; if none is, a whole one and the rest likewise."""
    fitting = [node for node, count in enumerate(free) if count >= need]
    if fitting:
        for node in fitting:
            yield tuple(need if node == other else 0 for other in range(len(free)))
        return
    for node, count in enumerate(free):
        if count:
            rest = [0 if node == other else left for other, left in enumerate(free)]
            for placed in placements(rest, need - count):
                yield tuple(count if node == i else more for i, more in enumerate(placed))
