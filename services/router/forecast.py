"""When a request would get its first token if it joined the queue now.

The queue is played through on a clock of thought: whoever has no room waits until enough of what
is held comes free, whoever has is planned as he will be then, and takes his instances and slots.
Pure; moments are monotonic seconds.
"""

import heapq
from collections.abc import Callable, Iterable, Sequence
from copy import copy
from typing import Generic, NamedTuple, TypeVar

from services.router.memory import plan_slots
from services.router.plan import Plan, PoolView
from services.router.scheduler import Job, Scheduler

EXACT = 256
"""Requests of a queue that are planned in thought; those behind them count by their work."""
HASTE = 32
"""Tries for one request after which more and more of what comes free is taken at once."""

J = TypeVar("J", bound=Job)


class Release(NamedTuple):
    """Slots of one instance, prefill or decode, that come free."""

    at: float
    name: str
    slots: int


class Room(NamedTuple):
    """Slots that nobody has, by instance, and when the others come free."""

    prefill: dict[str, int]
    decode: dict[str, int]
    releases: Callable[[], Iterable[Release]]
    """Asked only when somebody does not fit."""


class Needs(NamedTuple, Generic[J]):
    """What a request takes besides its prefill instances' time."""

    slots: Callable[[J], int]
    """Of decode."""
    handover: float
    """Seconds from its first token until its prefill slots are free."""
    stay: Callable[[J], float]
    """Seconds from its first token until its decode slots are."""


class Expected(NamedTuple):
    """The first token, and the plan that leads to it, made at another moment than now."""

    at: float
    plan: Plan

    @property
    def work(self) -> float:
        """Seconds for which it keeps the whole mesh busy."""
        plan = self.plan
        pairs = zip(plan.chunks, plan.predicted, strict=True)
        work = sum([chunk.size * seconds for chunk, seconds in pairs])
        return work / len(plan.view.names)


class Forecast(Generic[J]):
    """The mesh as it will be for whoever comes next.

    Args:
        waiting: requests in the queue, which set the price of an instance.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        pool: tuple[PoolView, float],
        room: Room,
        needs: Needs[J],
        waiting: int,
    ) -> None:
        view, now = pool
        self._scheduler = scheduler
        self._names, self._nodes = view.names, view.nodes
        self._free_at = [now + delay for delay in view.delays]
        self._prefill, self._decode = room.prefill, room.decode
        self._coming = room.releases
        self._releases: list[Release] | None = None
        self._needs = needs
        self._waiting = waiting
        self._clock = self._now = now
        """The clock of thought, and the real one."""

    def expect(self, request: J, now: float) -> Expected | None:
        """What would become of a request behind all that are booked; None when that is unknown.

        Changes nothing.
        """
        thought = self._copy()
        thought._now, thought._clock = now, max(self._clock, now)
        return thought._next(request)

    def book(self, request: J) -> bool:
        """Put a request at the end; False when it would wait for what nobody knows."""
        expected = self._next(request)
        if expected is None:
            # Nothing is known of those behind it either.
            self._decode, self._releases = {}, []
            return False
        at, plan = expected
        busy = set(plan.members)
        pairs = zip(self._names, self._free_at, strict=True)
        self._free_at = [at if name in busy else free for name, free in pairs]
        for name, slots in plan_slots(plan).items():
            self._take(self._prefill, Release(at + self._needs.handover, name, slots))
        decode = max(self._decode, key=self._decode.__getitem__)
        end = at + self._needs.stay(request)
        self._take(self._decode, Release(end, decode, self._needs.slots(request)))
        return True

    def fold(self, queue: Sequence[J], limit: int = EXACT) -> None:
        """Book a whole queue in its order; what is behind the limit delays everybody alike."""
        for request in queue[:limit]:
            if not self.book(request):
                return
        rest = queue[limit:]
        if rest and self._names:
            delay = sum(map(self._work, rest)) / len(self._names)
            self._free_at = [max(free, self._clock) + delay for free in self._free_at]

    def _copy(self) -> "Forecast[J]":
        other: Forecast[J] = copy(self)
        other._prefill, other._decode = dict(self._prefill), dict(self._decode)
        other._releases = None if self._releases is None else list(self._releases)
        return other

    def _next(self, request: J) -> Expected | None:
        """Let time pass until there is room for a request, and plan it."""
        tries = 0
        while True:
            plan = self._plan(request)
            if plan is not None:
                return Expected(self._clock + plan.ttft, plan)
            tries += 1
            if not self._pass(1 + max(0, tries - HASTE)):
                return None

    def _plan(self, request: J) -> Plan | None:
        scheduler = self._scheduler
        if scheduler.is_late_binding and self._free_at:
            # Only who can begin is planned, so nothing is while nobody is free.
            self._clock = max(self._clock, min(self._free_at))
        if max(self._decode.values(), default=-1) < self._needs.slots(request):
            return None
        delays = tuple([max(0.0, free - self._clock) for free in self._free_at])
        view = PoolView(self._names, self._nodes, delays)
        policy = scheduler.policy(self._waiting, view, self._now)
        return scheduler.plan(request, view, self._prefill, policy)

    def _pass(self, count: int) -> bool:
        """Let what comes free next come free; False when nothing does."""
        releases = self._heap()
        if not releases:
            return False
        while releases and count:
            count -= 1
            at = releases[0].at
            self._clock = max(self._clock, at)
            while releases and releases[0].at <= at:
                release = heapq.heappop(releases)
                room = self._prefill if release.name in self._prefill else self._decode
                # An instance may have left since.
                if release.name in room:
                    room[release.name] += release.slots
        return True

    def _take(self, room: dict[str, int], until: Release) -> None:
        room[until.name] -= until.slots
        heapq.heappush(self._heap(), until)

    def _heap(self) -> list[Release]:
        if self._releases is None:
            self._releases = list(self._coming())
            heapq.heapify(self._releases)
        return self._releases

    def _work(self, request: J) -> float:
        """Instance-seconds of a request that is computed as cheaply as can be."""
        model = self._scheduler.model
        return min([size * model.predict(size, 0, request.length) for size in model.sizes])
