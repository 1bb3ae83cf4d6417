"""The simulator decides as the router does: the same plans at the same time."""

import heapq
from itertools import count

import pytest

from common.latency import LatencyModel
from common.messages import Cancel, ChunkDone, Ready, Released, RunChunk
from common.schedule import Pricing, Schedule
from services.router.requests import Request
from services.router.simulator import Cluster, Simulation
from tests.services.router.mesh import Mesh
from tests.services.router.test_simulator import demands

A100 = LatencyModel.load("a100-llama3-8b")
MAPPING = {"0.5": 0.1, "2": 0.4, "4": 0.7}
SCHEDULES = [
    Schedule(policy="cdsp", improvement_rate_mapping=MAPPING),
    Schedule(policy="single-chunk", improvement_rate=0.4),
    Schedule(policy="loongserve"),
    Schedule(policy="fixed-sp:4"),
    Schedule(policy="cdsp-priced"),
    Schedule(policy="cdsp-priced", priced=Pricing(order="slope:5")),
    Schedule(policy="cdsp-priced", priced=Pricing(order="arrival", replan=False)),
    Schedule(policy="cdsp-priced", priced=Pricing(late_binding=False)),
]
NUM_INSTANCES = 8


class Engines:
    """Prefill instances that say all that they do at once, and take what was predicted."""

    def __init__(self, mesh: Mesh) -> None:
        self.mesh = mesh
        self.events = []
        self.numbers = count()
        self.queues = {name: [] for name in mesh.prefill}
        self.members = {}

    def take(self) -> None:
        """Queue what the router has sent."""
        for to, run in self.mesh.sent_of(RunChunk):
            name = to.removeprefix("in-")
            self.members.setdefault(run.seq, []).append(name)
            self.queues[name].append(run)
        self.mesh.sent.clear()
        for seq, names in list(self.members.items()):
            runs = [self.queues[name][0] for name in names]
            if (
                all(run.seq == seq for run in runs)
                and len(names) == runs[0].chunks[runs[0].index].size
            ):
                del self.members[seq]
                end = self.mesh.now + runs[0].predicted
                heapq.heappush(self.events, (end, next(self.numbers), names, runs))
                for name, run in zip(names, runs, strict=True):
                    self.mesh.give(Ready(name, 1, seq, run.turn))

    def finish(self) -> None:
        """One chunk is done; a prompt that is over leaves everything."""
        self.mesh.now, _, names, runs = heapq.heappop(self.events)
        last = runs[0].index == len(runs[0].chunks) - 1
        pool = self.mesh.router.books.pool
        for name, run in zip(names, runs, strict=True):
            self.queues[name].pop(0)
            # All members finish together: the router hears of it in one message.
            pool.finished(name, run.turn)
        for name, run in zip(names, runs, strict=True):
            zeros = (0.1, 0.0, 0.0, 0.0, 0, 0)
            self.mesh.give(
                ChunkDone(name, 1, run.seq, run.turn, run.request, run.attempt, run.index, *zeros)
            )
            if last:
                self.mesh.give(Released(name, 1, run.request, run.attempt))
        if last:
            self.mesh.give(Cancel(runs[0].request, runs[0].attempt))


def served(schedule: Schedule, given) -> list[tuple[float, tuple[int, ...], float]]:
    """When the router starts each request, in which chunks, with which TTFT from then on."""
    mesh = Mesh(NUM_INSTANCES, schedule=schedule, total=10**9)
    planned = {}

    def note(request: Request) -> None:
        sizes = tuple(chunk.size for chunk in request.plan.chunks)
        planned[request.owner.request] = (mesh.now, sizes, request.plan.ttft)

    mesh.router._planned = note
    engines, coming = Engines(mesh), list(enumerate(given))
    while coming or engines.events:
        if coming and (not engines.events or coming[0][1].at <= engines.events[0][0]):
            index, demand = coming.pop(0)
            mesh.now = demand.at
            mesh.submit(str(index), demand.length)
        else:
            engines.finish()
        engines.take()
    return [planned[str(index)] for index in range(len(given))]


@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda one: f"{one.policy}-{one.priced.order}")
def test_router_and_simulator_start_the_same_plans_at_the_same_time(schedule):
    given = demands(1.6, 150)
    cluster = Cluster(nodes=1, instances_per_node=NUM_INSTANCES)
    found = Simulation(cluster, schedule, A100).run(given)
    wanted = [(one.at + one.waited, one.sizes, one.predicted - one.waited) for one in found]
    for own, other in zip(served(schedule, given), wanted, strict=True):
        assert own[1] == other[1]
        assert own[::2] == pytest.approx(other[::2], abs=1e-9)
