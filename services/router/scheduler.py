"""Which waiting requests start now, and by which plan: policy, regulation, order and binding.

Pure; `now` is monotonic seconds. The router and the simulator drive the same object: both hand it
the queue and a view of the pool, and book what it lets start.

Source:
    Specification, sections 6 and 8; cdsp-priced is ours.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Protocol, TypeVar

from common.errors import RequestFailed
from common.latency import LatencyModel
from common.schedule import Schedule
from services.router.admission import Admission
from services.router.order import Tail, Waiting, ordered
from services.router.plan import Plan, Policy, PoolView
from services.router.regulation import Regulation


class Job(Waiting, Protocol):
    """What the scheduler reads of a request."""

    @property
    def forced(self) -> str | None:
        """The plan that its client demands."""

    size: int | None
    """Largest group of the plan that was made at its arrival, where plans stay."""


J = TypeVar("J", bound=Job)
Free = Callable[[], Mapping[str, int]]
"""KV slots that nobody has, by instance."""


class Scheduler:
    """One schedule in force; `update` changes it between two decisions."""

    def __init__(self, schedule: Schedule, model: LatencyModel) -> None:
        check(schedule, model)
        self.schedule = schedule
        self.regulation = Regulation(schedule)
        self._tail = Tail()
        self.admission = Admission(model)

    @property
    def model(self) -> LatencyModel:
        """The latency model that plans are made with."""
        return self.admission.model

    def update(self, schedule: Schedule) -> None:
        """Put another schedule in force, whole or not at all.

        Raises:
            RequestFailed: it does not fit the latency model; nothing has changed.
        """
        check(schedule, self.model)
        self.schedule = schedule
        self.regulation.update(schedule)

    def learn(self, model: LatencyModel) -> None:
        """Make plans with another model of the same sizes from here on."""
        self.admission.model = model

    def arrive(self, now: float) -> None:
        """Count a new request."""
        self.regulation.arrive(now)

    def starts(
        self, queue: Sequence[J], view: PoolView, free: Free, now: float
    ) -> Iterator[tuple[J, Plan]]:
        """Requests that start now with their plans, each to be booked before the next is asked for.

        A request without room in memory holds up all behind it. One that could not start at once
        keeps, under late binding, the instances it would take from those behind it, and is
        planned anew the next time.

        Args:
            queue: in its order, see `ordered`.
            view: the pool; what is booked meanwhile is added here.
            free: asked anew for every request.
            now: seconds.
        """
        late = self.is_late_binding
        for request in queue:
            if self.is_held_up(view):
                return
            if late and request.size is not None and _is_busy(view):
                continue
            policy = self.policy(len(queue) - 1, view, now)
            plan = self.plan(request, view, free(), policy)
            if plan is None:
                return
            if late and request.forced is None and not self.schedule.priced.replan:
                request.size = plan.chunks[-1].size
            if not late or plan.wait <= 0:
                yield request, plan
                # Whoever asks for another one has booked this one.
                self._tail.note(now - request.arrived + plan.ttft, now)
            view = view.after(plan)

    def ordered(self, queue: Sequence[J], now: float) -> Sequence[J]:
        """The queue, which is in order of arrival, in the order in which requests start."""
        if not self.is_late_binding:
            return queue
        return ordered(queue, self.schedule.priced, self.model, self._tail.worst(now), now)

    @property
    def is_late_binding(self) -> bool:
        """Whether requests wait in the queue until their first chunk can start."""
        return self.schedule.policy == "cdsp-priced" and self.schedule.priced.late_binding

    def is_held_up(self, view: PoolView) -> bool:
        """Whether nobody is free: neither for a request nor for those behind it."""
        return self.is_late_binding and self.schedule.priced.replan and _is_busy(view)

    @property
    def capacity_policy(self) -> Policy:
        """The policy as far as it decides what can be planned at all."""
        name, _, _ = self.schedule.policy.partition(":")
        return Policy(sizes_of(self.schedule), 0.0, self.schedule.min_chunk, name)

    def policy(
        self, num_waiting: int, view: PoolView, now: float, schedule: Schedule | None = None
    ) -> Policy:
        """By what a request is planned now, with so many others in the queue.

        Args:
            num_waiting: others in the queue.
            view: the pool.
            now: seconds.
            schedule: another one than that in force, to see what it would do.
        """
        schedule = schedule or self.schedule
        name, _, _ = schedule.policy.partition(":")
        rate, price = self.regulation.rate(now), self._price(schedule, num_waiting, view)
        return Policy(sizes_of(schedule), rate, schedule.min_chunk, name, price)

    def plan(
        self, request: Job, view: PoolView, free: Mapping[str, int], policy: Policy
    ) -> Plan | None:
        """The plan by which a request would start now; None without room in memory."""
        if request.forced is not None:
            return self.admission.forced(request.forced, request.length, view, free, policy)
        if request.size is not None:
            sizes = tuple([size for size in policy.sizes if size <= request.size])
            policy = replace(policy, sizes=sizes or policy.sizes[:1], fewest=request.size)
        return self.admission.plan(request.length, view, free, policy)

    def _price(self, schedule: Schedule, num_waiting: float, view: PoolView) -> float:
        """Seconds of TTFT that one instance is worth for a second.

        Source:
            (base + per_waiting * waiting) / instances.
        """
        priced, delays = schedule.priced, view.delays
        if schedule.policy != "cdsp-priced" or not delays:
            return 0.0
        if not priced.late_binding:
            # Nobody waits in the queue: those who wait do so on the instances (Little's law).
            num_waiting = (self.regulation.load or 0.0) * sum(delays) / len(delays)
        return (priced.base + priced.per_waiting * num_waiting) / len(delays)


def _is_busy(view: PoolView) -> bool:
    return min(view.delays, default=1.0) > 0


def check(schedule: Schedule, model: LatencyModel) -> None:
    """Whether a schedule can be used with a latency model.

    Raises:
        RequestFailed: it cannot; begins with the key.
    """
    # The candidates count again as soon as the policy is another one.
    wanted = [("sp_size_candidates", schedule.sizes)]
    if schedule.fixed_size is not None:
        wanted.append(("policy", (schedule.fixed_size,)))
    for key, sizes in wanted:
        if not any(size in model.curves for size in sizes):
            known = ", ".join(map(str, model.sizes))
            raise RequestFailed(f"{key}: the latency model knows the sizes {known}")


def sizes_of(schedule: Schedule) -> tuple[int, ...]:
    """The sizes that groups may have."""
    return (schedule.fixed_size,) if schedule.fixed_size else schedule.sizes
