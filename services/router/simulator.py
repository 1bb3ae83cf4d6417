"""The prefill side of a cluster in virtual time: the router's own objects, and clocks for engines.

Pool, scheduler, memory and placement are those that serve; what is simulated is when requests
come and how long their chunks, hand-overs and answers take. Nothing waits for a real clock.
"""

import heapq
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import NamedTuple

import numpy as np

from common.errors import RequestFailed
from common.latency import LatencyModel
from common.pages import Owner
from common.schedule import Schedule
from services.router.memory import Memory, plan_slots
from services.router.placement import Placement, decode_slots
from services.router.plan import Plan
from services.router.pool import Pool, Task
from services.router.scheduler import Scheduler

MAX_CHUNKS = 16
"""Chunks of one plan that have an error of their own; later ones have the last one's."""


class Demand(NamedTuple):
    """One request to come: seconds after the start, tokens of prompt and answer."""

    at: float
    length: int
    output: int = 1


@dataclass(frozen=True)
class Cluster:
    """What is simulated.

    Args:
        nodes: of prefill instances.
        instances_per_node: on each of them.
        prefill_tokens: KV slots of a prefill instance; None for as many as are wanted.
        decode: decode instances.
        decode_tokens: KV slots of each; None for as many as are wanted.
        token_seconds: time between two tokens of an answer.
        transfer_seconds: for the KV of one token, from one prefill instance.
        num_layers: in which KV is handed over, the last one after prefill has ended.
        error: relative standard deviation of a chunk's real seconds around the predicted ones.
    """

    nodes: int = 2
    instances_per_node: int = 8
    prefill_tokens: int | None = None
    decode: int = 2
    decode_tokens: int | None = None
    token_seconds: float = 0.02
    transfer_seconds: float = 0.0
    num_layers: int = 32
    error: float = 0.0


@dataclass(slots=True)
class Outcome:
    """What became of one request; seconds, and the SP size of each chunk."""

    at: float
    length: int
    ttft: float
    predicted: float
    waited: float
    """In the router's queue, until it was planned."""
    sizes: tuple[int, ...]


@dataclass(slots=True, eq=False)
class _Request:
    owner: Owner
    demand: Demand
    place: int
    errors: Sequence[float]
    length: int
    arrived: float
    slots: int
    is_retry: bool = False
    forced: str | None = None
    size: int | None = None
    plan: Plan | None = None
    planned: float = 0.0
    decode: str | None = None


@dataclass(slots=True, eq=False)
class _Run:
    """A chunk on its way; `missing` members are not there yet."""

    task: Task
    request: _Request
    members: tuple[str, ...]
    missing: int
    seconds: float
    is_last: bool


@dataclass(slots=True, eq=False)
class _Engine:
    """An instance: what it has to compute, in order."""

    runs: deque[_Run] = field(default_factory=deque)


class Simulation:
    """One run of one cluster under one schedule.

    Args:
        model: what plans are made with, and, but for the error, how long chunks take.
        seed: of the error; the same for a request under every policy.
    """

    def __init__(
        self, cluster: Cluster, schedule: Schedule, model: LatencyModel, seed: int = 0
    ) -> None:
        self.scheduler = Scheduler(schedule, model)
        self.outcomes: list[Outcome | None] = []
        self._cluster = cluster
        self._seed = seed
        self._pool = Pool()
        self._memory = Memory()
        self._placement = Placement()
        self._engines: dict[str, _Engine] = {}
        for node in range(cluster.nodes):
            for index in range(cluster.instances_per_node):
                name = f"n{node}p{index}"
                self._pool.join(name, f"n{node}")
                self._memory.join(name, cluster.prefill_tokens or 2**62)
                self._engines[name] = _Engine()
        for index in range(cluster.decode):
            self._placement.join(f"d{index}", cluster.decode_tokens or 2**62)
        self._usable = {f"d{index}" for index in range(cluster.decode)}
        self._queue: list[_Request] = []
        self._numbers = count()
        self._events: list[tuple[float, int, _Run | _Request, bool]] = []
        self._unlimited = self._memory.free()

    def run(self, demands: Sequence[Demand]) -> list[Outcome]:
        """Serve all of them; what became of each, in order.

        Raises:
            RequestFailed: a prompt that this cluster could not take even if it were empty.
        """
        self.outcomes = [None] * len(demands)
        coming = self._requests(demands)
        request = next(coming, None)
        while request is not None or self._events:
            if request is not None and (not self._events or request.arrived <= self._events[0][0]):
                self._arrive(request)
                request = next(coming, None)
            else:
                now, _, what, is_over = heapq.heappop(self._events)
                self._happen(now, what, is_over)
        done = [outcome for outcome in self.outcomes if outcome is not None]
        assert len(done) == len(demands), "whatever was accepted is served"
        return done

    def _requests(self, demands: Sequence[Demand]) -> Iterator[_Request]:
        errors = self._errors(len(demands))
        for place, demand in enumerate(demands):
            owner = Owner(f"r{place}", 1)
            slots = decode_slots(demand.length, demand.output, demand.output)
            yield _Request(owner, demand, place, errors[place], demand.length, demand.at, slots)

    def _errors(self, num_requests: int) -> Sequence[Sequence[float]]:
        """Real over predicted seconds of each chunk of each request: log-normal with mean 1."""
        error = self._cluster.error
        if not error:
            return [(1.0,)] * num_requests
        sigma = float(np.sqrt(np.log1p(error * error)))
        rng = np.random.default_rng(self._seed)
        drawn = rng.lognormal(-sigma * sigma / 2, sigma, (num_requests, MAX_CHUNKS))
        return drawn.tolist()  # type: ignore[no-any-return]

    def _arrive(self, request: _Request) -> None:
        now = request.arrived
        self.scheduler.admission.check(
            request.length, self._memory.totals(), None, self.scheduler.capacity_policy
        )
        largest = self._placement.largest(self._usable)
        if request.slots > largest:
            raise RequestFailed(
                f"{request.length} tokens and their answer need {request.slots} slots of decode, "
                f"an instance has {largest}; raise decode.kv_tokens"
            )
        self.scheduler.arrive(now)
        self._queue.append(request)
        self._start(now)

    def _happen(self, now: float, what: _Run | _Request, is_over: bool) -> None:
        if isinstance(what, _Run):
            self._finish(what, now)
        elif is_over:
            assert what.decode is not None, "placed when it was planned"
            self._placement.drop(what.owner, what.decode)
        else:
            self._hand_over(what, now)
        if self._queue:
            self._start(now)

    def _start(self, now: float) -> None:
        """Plan whatever starts now and hand its chunks to the engines."""
        scheduler = self.scheduler
        started = []
        for request, plan in scheduler.starts(
            scheduler.ordered(self._queue, now), self._pool.view(now), self._free, now
        ):
            if not self._place(request):
                break
            self._commit(request, plan, now)
            started.append(request)
        if len(started) == len(self._queue):
            self._queue.clear()
        else:
            for request in started:
                self._queue.remove(request)

    def _free(self) -> Mapping[str, int]:
        return self._memory.free() if self._cluster.prefill_tokens else self._unlimited

    def _place(self, request: _Request) -> bool:
        if self._cluster.decode_tokens is None:
            return True
        request.decode = self._placement.choose(request.slots, self._usable)
        if request.decode is not None:
            self._placement.book(request.owner, request.decode, request.slots)
        return request.decode is not None

    def _commit(self, request: _Request, plan: Plan, now: float) -> None:
        request.plan, request.planned = plan, now
        tasks = self._pool.commit(request.owner, plan)
        if self._cluster.prefill_tokens:
            last = {name: turn for task in tasks for name, turn in task.turns.items()}
            self._memory.reserve(request.owner, plan_slots(plan), last)
        for task in tasks:
            members = plan.group(task.index)
            error = request.errors[min(task.index, len(request.errors) - 1)]
            seconds = task.predicted * error
            is_last = task.index == len(tasks) - 1
            run = _Run(task, request, members, len(members), seconds, is_last)
            for name in members:
                runs = self._engines[name].runs
                runs.append(run)
                if runs[0] is run:
                    self._come(run, now)

    def _come(self, run: _Run, now: float) -> None:
        """One more member stands at the start of a chunk, which begins with the last one."""
        run.missing -= 1
        if run.missing == 0:
            self._pool.running(run.members[0], run.task.seq, now)
            self._at(now + run.seconds, run)

    def _finish(self, run: _Run, now: float) -> None:
        for name, turn in run.task.turns.items():
            self._pool.finished(name, turn)
            runs = self._engines[name].runs
            runs.popleft()
            if runs:
                self._come(runs[0], now)
        if run.is_last:
            self._answer(run.request, run.seconds, now)

    def _answer(self, request: _Request, seconds: float, now: float) -> None:
        """The first token is there; the last layer's KV, or more of it, is still on its way."""
        plan, demand = request.plan, request.demand
        assert plan is not None, "computed after planning"
        self.outcomes[request.place] = Outcome(
            at=demand.at,
            length=demand.length,
            ttft=now - demand.at,
            predicted=request.planned - demand.at + plan.ttft,
            waited=request.planned - demand.at,
            sizes=tuple([chunk.size for chunk in plan.chunks]),
        )
        last = plan.chunks[-1]
        transfer = self._cluster.transfer_seconds * last.length / last.size
        left = max(transfer / self._cluster.num_layers, transfer - seconds)
        self._at(now + left, request)

    def _hand_over(self, request: _Request, now: float) -> None:
        plan = request.plan
        assert plan is not None, "computed after planning"
        if self._cluster.prefill_tokens:
            for name in plan.members:
                self._memory.release(request.owner, name)
        if request.decode is not None:
            self._at(now + request.demand.output * self._cluster.token_seconds, request, True)

    def _at(self, time: float, what: _Run | _Request, is_over: bool = False) -> None:
        heapq.heappush(self._events, (time, next(self._numbers), what, is_over))
