"""What a router would tell of a cluster, out of the simulator: genuine plans, invented load."""

import heapq
from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from common.events import (
    Began,
    BrokerState,
    Computed,
    DecodeState,
    Decoding,
    Drift,
    HandedOver,
    Happening,
    MeshState,
    Over,
    Planned,
    PlannedChunk,
    PrefillState,
    Waits,
)
from common.latency import LatencyModel
from common.schedule import Schedule
from services.router.plan import Plan
from services.router.simulator import Cluster, Demand, Simulation, _Request, _Run
from tests.browser.scenes import Scene

BACKENDS = 16
SPREAD = 2e-6
"""Seconds in which one token of history is spread, invented."""


class Recording(Simulation):
    """A simulation that tells what happens in it, in order."""

    def __init__(self, scene: Scene, start: float, seed: int = 1) -> None:
        self.scene, self._start_wall = scene, start
        schedule = Schedule(
            policy=scene.policy,
            sp_size_candidates=scene.sizes,
            improvement_rate=scene.improvement_rate,
        )
        cluster = Cluster(
            scene.nodes,
            scene.per_node,
            400_000,
            scene.decode,
            4_000_000,
            transfer_seconds=2e-6,
            error=scene.error,
        )
        model = LatencyModel.load("a100-llama3-8b").scaled(scene.speed)
        super().__init__(cluster, schedule, model, seed)
        places = [(n, i) for n in range(scene.nodes) for i in range(scene.per_node)]
        self._names = {
            f"n{n}p{i}": (
                scene.instance_name.format(n * scene.per_node + i),
                scene.node_name.format(n),
            )
            for n, i in places
        }
        self.plans: deque[tuple[str, Plan]] = deque(maxlen=4000)
        self._told: list[Happening] = []
        self._came: dict[int, dict[str, float]] = {}
        self._running: dict[str, float] = {}
        self._busy: Counter[str] = Counter()
        self._active: Counter[str] = Counter()
        self._lent: dict[str, int] = {}
        self._arrivals: deque[float] = deque()
        self._next_state = 0.0
        self._rng = np.random.default_rng(seed)

    def happenings(self, demands: Iterator[Demand]) -> Iterator[Happening]:
        """Everything that happens, for as long as requests come and the reader asks."""
        self.outcomes = []
        request = self._coming(demands)
        while True:
            at = self._events[0][0] if self._events else float("inf")
            coming = request.arrived if request is not None else float("inf")
            if self._next_state <= min(at, coming):
                self._tell_state()
            elif request is not None and coming <= at:
                self._arrivals.append(coming)
                self._arrive(request)
                if request in self._queue:
                    self._told.append(
                        Waits(self._wall(coming), request.owner.request, 1, request.length, None)
                    )
                request = self._coming(demands)
            else:
                now, _, what, is_over = heapq.heappop(self._events)
                self._happen(now, what, is_over)
            yield from sorted(self._told, key=lambda event: event.at)
            self._told.clear()

    def _coming(self, demands: Iterator[Demand]) -> _Request | None:
        demand = next(demands, None)
        if demand is None:
            return None
        self.outcomes.append(None)
        place = len(self.outcomes) - 1
        one = next(self._requests([demand]))
        one.place = place
        one.owner = one.owner._replace(request=f"cmpl-{self._rng.integers(16**8):08x}{place:06d}")
        one.errors = self._rng.lognormal(0, max(self.scene.error, 1e-9), 16).tolist()
        return one

    def _wall(self, now: float) -> float:
        return self._start_wall + now

    def _commit(self, request: _Request, plan: Plan, now: float) -> None:
        self.plans.append((request.owner.request, plan))
        chunks = tuple(
            PlannedChunk(chunk.length, chunk.size, self._wall(now + start), seconds)
            for chunk, start, seconds in zip(plan.chunks, plan.starts, plan.predicted, strict=True)
        )
        other = replace(plan.policy, name="single-chunk")
        free = dict.fromkeys(plan.view.names, 2**62)
        single = self.scheduler.admission.plan(request.length, plan.view, free, other)
        self._told.append(
            Planned(
                self._wall(now),
                request.owner.request,
                1,
                self._wall(request.arrived),
                request.length,
                tuple(self._names[name][0] for name in plan.members),
                chunks,
                f"decode-{(request.decode or 'd0')[1:]}",
                plan.ttft,
                plan.policy.name,
                plan.policy.rate,
                None if single is None else single.ttft,
            )
        )
        super()._commit(request, plan, now)

    def _come(self, run: _Run, now: float) -> None:
        came = self._came.setdefault(run.task.seq, {})
        for name in run.members:
            runs = self._engines[name].runs
            if name not in came and runs and runs[0] is run:
                came[name] = now
                break
        super()._come(run, now)
        if run.missing == 0:
            owner = run.request.owner
            self._told.append(Began(self._wall(now), owner.request, 1, run.task.index))
            self._running |= dict.fromkeys(run.members, now)
            if run.task.index == 0:
                self._lent[owner.request] = run.request.plan.chunks[-1].size  # type: ignore[union-attr]

    def _finish(self, run: _Run, now: float) -> None:
        owner, came = run.request.owner, self._came.pop(run.task.seq)
        plan = run.request.plan
        assert plan is not None
        index = run.task.index
        before = plan.chunks[index - 1].size if index else len(run.members)
        history = plan.chunks[index].history if before < len(run.members) else 0
        balance = min(history * SPREAD, 0.2 * run.seconds)
        for name in run.members:
            self._busy[name] += now - max(self._running.pop(name), self._next_state - 1)
            wait = float(self._rng.uniform(0.01, 0.08)) * (run.seconds - balance)
            gather = now - run.seconds - came[name]
            self._told.append(
                Computed(
                    self._wall(now),
                    owner.request,
                    1,
                    index,
                    self._names[name][0],
                    max(0.0, gather),
                    balance,
                    run.seconds - balance - wait,
                    wait,
                    2e-6 * plan.chunks[index].length / len(run.members),
                )
            )
        super()._finish(run, now)

    def _happen(self, now: float, what: _Run | _Request, is_over: bool) -> None:
        super()._happen(now, what, is_over)
        if isinstance(what, _Run):
            return
        request, decode = what.owner.request, f"decode-{(what.decode or 'd0')[1:]}"
        if is_over:
            self._active[decode] -= 1
            self._told.append(Over(self._wall(now), request, 1, "length", what.demand.output))
            return
        assert what.plan is not None
        self._active[decode] += 1
        self._lent.pop(request, None)
        for name in what.plan.members:
            self._told.append(HandedOver(self._wall(now), request, 1, self._names[name][0]))
        self._told.append(Decoding(self._wall(now + 0.01), request, 1, decode, what.slots))

    def _tell_state(self) -> None:
        now = self._next_state
        while self._arrivals and self._arrivals[0] < now - 10:
            self._arrivals.popleft()
        free, delays, prefill = self._memory.free(), self._pool.delays(now), []
        for name, (shown, node) in self._names.items():
            since = self._running.get(name)
            busy = self._busy.pop(name, 0.0) + (
                now - max(since, now - 1) if since is not None else 0
            )
            used, share = 400_000 - free[name], min(1.0, max(0.0, busy))
            prefill.append(PrefillState(shown, node, delays[name], used, 400_000, share))
        decode = []
        for index in range(self.scene.decode):
            books = self._placement._instances[f"d{index}"]
            used, active = books.total - books.left(), self._active[f"decode-{index}"]
            node = self.scene.node_name.format(900 + index)
            decode.append(DecodeState(f"decode-{index}", node, active, used, books.total))
        lent, total = sum(self._lent.values()), BACKENDS * self.scene.decode
        broker = BrokerState(
            "kv-transfer-0",
            total,
            min(lent, total),
            max(0, lent - total) // 4,
            0.2 * (lent > total),
        )
        schedule = self.scheduler.schedule
        self._told.append(
            MeshState(
                self._wall(now),
                schedule.policy,
                self.scheduler.regulation.rate(now),
                len(self._arrivals) / 10,
                len(self._queue),
                len(self._queue) + len(self._lent) + sum(self._active.values()),
                tuple(prefill),
                tuple(decode),
                (broker,),
                (Drift(1, 1.02), Drift(8, 0.97)),
            )
        )
        self._next_state += 1.0
