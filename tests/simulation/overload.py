"""More requests than a mesh can take, in virtual time: who is taken in, and what comes true.

Clients come by Poisson's law, and some of those who are refused return after the time that they
were told, rounded up to whole seconds as HTTP has it, as often as it takes.
"""

import asyncio
import math
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from msgspec import structs

from common.messages import ChunkDone, Submit
from loadgen.arrival import Arrival
from loadgen.arrivals import draw_arrivals
from loadgen.lengths import Lengths
from services.router import entrance
from services.router.promises import Promises
from tests.bench.overload_figures import MAX_TRIES, Result, Returning, Try, returns
from tests.simulation.checks import ROUTER
from tests.simulation.cluster import MAX_MODEL_LEN, Cluster
from tests.simulation.history import ANSWERED, Event
from tests.simulation.questions import Question
from tests.simulation.world import World


@dataclass(frozen=True)
class Overload:
    """What is tried.

    Args:
        rate: requests per second.
        seconds: for which they come.
        probes: of them all, evenly spread, are the clients whose returns are counted.
        returning: who honours Retry-After.
        promises: whether the router keeps places for those who return.
    """

    cluster: Cluster
    lengths: Lengths
    outputs: Lengths
    rate: float
    seconds: float = 60.0
    probes: int = 50
    returning: Returning = "probes"
    promises: bool = True
    seed: int = 1


async def capacity(path: Path, case: Overload, count: int = 200) -> float:
    """Requests per second that come out when all that can wait are there from the beginning."""
    router = structs.replace(case.cluster.router, max_ttft=0.0)
    world = World(path, replace(case.cluster, router=router))
    firsts: list[float] = []
    async with world.running():
        arrivals = draw_arrivals(count, 1.0, case.lengths, seed=case.seed, outputs=case.outputs)

        async def one(number: int, arrival: Arrival) -> None:
            answer = await world.ask(_question(f"c{number}", arrival))
            assert answer.outcome == ANSWERED, answer.outcome
            firsts.append(answer.ttft)

        async with asyncio.TaskGroup() as group:
            for number, arrival in enumerate(arrivals):
                group.create_task(one(number, arrival))
    firsts.sort()
    low, high = count // 10, 9 * count // 10
    return (high - low) / (firsts[high] - firsts[low])


async def overload(path: Path, case: Overload) -> Result:
    """Run it until the last client has what it wanted, or has given up."""
    world, result = World(path, case.cluster), Result()
    world.history.events = deque(maxlen=0)  # type: ignore[assignment]
    count = int(case.rate * case.seconds * 1.3) + 10
    arrivals = draw_arrivals(count, case.rate, case.lengths, seed=case.seed, outputs=case.outputs)
    arrivals = [one for one in arrivals if one.at < case.seconds]
    every = max(1, len(arrivals) // case.probes)
    with _promises(case.promises):
        async with world.running():
            run = _Run(world, case, result)
            async with asyncio.TaskGroup() as group:
                watching = group.create_task(run.watch())
                async with asyncio.TaskGroup() as clients:
                    for number, arrival in enumerate(arrivals):
                        clients.create_task(run.client(number, arrival, number % every == 0))
                watching.cancel()
            assert await world.settled() == []
    assert world.judge.violations == []
    result.busy = run.busy / (case.seconds * case.cluster.num_prefill)
    return result


class _Run:
    def __init__(self, world: World, case: Overload, result: Result) -> None:
        self.busy = 0.0
        self._world, self._case, self._result = world, case, result
        self._begun = asyncio.get_running_loop().time()
        self._received: dict[str, float] = {}
        world.history.listeners.append(self._note)

    async def client(self, number: int, arrival: Arrival, is_probe: bool) -> None:
        """Ask, and come back as told."""
        await asyncio.sleep(arrival.at)
        for count in range(MAX_TRIES):
            name = f"r{number}-{count}"
            asked = asyncio.get_running_loop().time()
            answer = await self._world.ask(_question(name, arrival, number))
            one = Try(asked - self._begun, is_probe, count > 0, answer.outcome == ANSWERED)
            one.ttft, one.predicted, one.after = answer.ttft, answer.predicted, answer.retry_after
            one.received = self._received.pop(name, asked) - asked
            self._result.tries.append(one)
            if one.is_taken or not returns(self._case.returning, is_probe):
                return
            assert answer.outcome == "refused 503", answer.outcome
            await asyncio.sleep(max(1, math.ceil(one.after or 0.0)))

    async def watch(self) -> None:
        """Look at the router's books, again and again."""
        result = self._result
        while True:
            books, promises = self._world.router.books, self._world.router.entrance.promises
            result.promises = max(result.promises, len(promises))
            result.waiting = max(result.waiting, books.requests.num_waiting)
            result.requests = max(result.requests, len(books.requests))
            result.returning = promises.returning
            await asyncio.sleep(0.5)

    def _note(self, event: Event) -> None:
        match event.way, event.message:
            case "took", Submit(request=request) if event.where == ROUTER:
                self._received.setdefault(request, event.time)
            case "took", ChunkDone(compute=seconds) if event.where == ROUTER:
                end = self._begun + self._case.seconds
                began = max(event.time - seconds, self._begun)
                self.busy += max(0.0, min(event.time, end) - began)


def _question(name: str, arrival: Arrival, seed: int = 0) -> Question:
    length = min(arrival.length, MAX_MODEL_LEN - arrival.output)
    return Question(name, 0.0, length, arrival.output, seed)


@contextmanager
def _promises(is_on: bool) -> Iterator[None]:
    """A router that keeps no places for anybody, for comparison."""
    if is_on:
        yield
        return
    new, make = entrance.NEW, entrance.Promises
    entrance.NEW, entrance.Promises = entrance.WAIT, lambda: Promises(0)
    try:
        yield
    finally:
        entrance.NEW, entrance.Promises = new, make
