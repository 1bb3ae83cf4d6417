"""One seed: a cluster, its clients, what goes wrong, and whether everything was right."""

import asyncio
import random
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from common.clock import LoopClock
from common.config import (
    DecodeConfig,
    GatewayConfig,
    MeshConfig,
    PrefillConfig,
    RouterConfig,
    StepCost,
)
from common.messages import KvLayout, Scheduled
from common.schedule import Pricing, Schedule
from tests.simulation.cluster import Cluster
from tests.simulation.history import ANSWERED, Over
from tests.simulation.nemesis import Fault, Nemesis, draw
from tests.simulation.questions import Question
from tests.simulation.refusals import suspicious
from tests.simulation.rest import Baseline
from tests.simulation.schedules import Order
from tests.simulation.schedules import draw as draw_orders
from tests.simulation.virtual_loop import Deadlock, run
from tests.simulation.world import World

SMALL = KvLayout(num_layers=4, num_kv_heads=8, head_dim=128, dtype="bfloat16")
HORIZON = 30.0
"""Virtual seconds in which clients come and faults happen, unless told otherwise."""
PROBES = 3
"""Requests after everything has healed, which must be answered."""
JOINING = 60.0
"""Virtual seconds for every process to be a member again."""


@dataclass(frozen=True)
class Scenario:
    """Everything that a seed decides."""

    cluster: Cluster
    questions: list[Question]
    faults: list[Fault]
    orders: list[Order]


@dataclass
class Result:
    """What came of a seed."""

    seed: int
    violations: list[str] = field(default_factory=list)
    outcomes: Counter[str] = field(default_factory=Counter)
    num_events: int = 0
    num_attempts: int = 0
    num_schedules: int = 0
    virtual: float = 0.0
    cpu: float = 0.0
    trace: str = ""


def scenario(seed: int, horizon: float = HORIZON) -> Scenario:
    """What a seed decides."""
    rng = random.Random(seed)
    cluster = _cluster(rng, seed)
    questions = _questions(rng, cluster, horizon)
    names = list(World.names(cluster))
    faults = draw(rng, names, horizon)
    return Scenario(cluster, questions, faults, draw_orders(rng, cluster, horizon))


class Enough(Exception):
    """Something is wrong, and nobody asks what else is."""


def play(path: Path, seed: int, horizon: float = HORIZON, *, is_hasty: bool = False) -> Result:
    """Run a seed; every violation is in the result, but soon after the first if `is_hasty`."""
    story, result, began = scenario(seed, horizon), Result(seed), time.process_time()

    async def main() -> None:
        world = World(path, story.cluster)
        try:
            async with asyncio.TaskGroup() as group:
                watch = group.create_task(_watch(world)) if is_hasty else None
                await _run(world, story, horizon)
                if watch is not None:
                    watch.cancel()
        finally:
            _report(world, result)

    try:
        run(main(), limit=50 * horizon + 3600.0)
    except (TimeoutError, Deadlock, ExceptionGroup) as error:
        if not isinstance(error, ExceptionGroup) or error.split(Enough)[1] is not None:
            result.violations.append(f"the simulation has failed: {error!r}")
    result.cpu = time.process_time() - began
    return result


async def _run(world: World, story: Scenario, horizon: float) -> None:
    async with world.running():
        baseline = Baseline(world)
        deadline = story.cluster.gateway.request_timeout
        async with asyncio.TaskGroup() as group:
            group.create_task(Nemesis(world).run(story.faults))
            for question in story.questions:
                group.create_task(_ask(world, question, 2 * deadline + horizon))
            for order in story.orders:
                group.create_task(_order(world, order))
        await _rest(world, baseline)
        now = LoopClock().now()
        async with asyncio.TaskGroup() as group:
            for number, name in enumerate(host.name for host in world.of("gateway")):
                for probe in range(PROBES):
                    seed = 1000 * number + probe
                    question = Question(f"probe-{name}-{probe}", now, 500, 20, seed, name)
                    group.create_task(_ask(world, question, deadline))
        await _rest(world, baseline)
        _judge_probes(world)
        world.judge.end()


async def _watch(world: World) -> None:
    while not world.judge.violations:
        await LoopClock().sleep(0.25)
    raise Enough


async def _rest(world: World, baseline: Baseline) -> None:
    """Once everything has healed, all processes are members again and nothing is held."""
    violations = world.judge.violations
    try:
        async with asyncio.timeout(JOINING):
            await world.joined()
    except TimeoutError:
        violations.append("not all processes have joined again")
        return
    violations += [f"at rest: {what}" for what in await world.settled()]
    # Until everybody has said so.
    await LoopClock().sleep(3 * world.cluster.mesh.heartbeat)
    violations += [f"at rest: {what}" for what in baseline.disturbed(world)]


async def _ask(world: World, question: Question, limit: float) -> None:
    """A client with its patience; longer than `limit` nobody may have to wait."""
    clock = LoopClock()
    await clock.sleep(max(0.0, question.arrival - clock.now()))
    with suppress(TimeoutError):
        async with asyncio.timeout(min(question.patience, limit)) as patience:
            await world.ask(question)
        return
    if question.patience > limit and patience.expired():
        world.judge.violations.append(f"I2 {question.name} has no end after {limit} s")


async def _order(world: World, order: Order) -> None:
    """An operator, whose gateway may not be there."""
    await LoopClock().sleep(order.time)
    host = world.hosts[order.gateway]
    if host.is_up and host.part is not None:
        host.spawn(host.part.update(order.change))


def _judge_probes(world: World) -> None:
    allowed = {ANSWERED}
    if world.cluster.router.max_queue < PROBES * world.cluster.num_gateways:
        # All come at once, and some policies let them wait in the queue.
        allowed.add("refused 503")
    for event in world.history.events:
        match event.message:
            case Over(request=request, outcome=outcome):
                if request.startswith("probe") and outcome not in allowed:
                    world.judge.violations.append(f"after healing {request} was {outcome}")


def _report(world: World, result: Result) -> None:
    result.violations += world.judge.violations
    result.num_events = world.judge.num_events
    result.num_attempts = world.num_retries
    result.virtual = LoopClock().now()
    told = (event.message for event in world.history.events if event.way == "took")
    result.num_schedules = len({one.current.version for one in told if isinstance(one, Scheduled)})
    result.trace = world.history.trace
    result.violations += suspicious(world)
    for event in world.history.events:
        if isinstance(event.message, Over):
            result.outcomes[event.message.outcome] += 1


def _questions(rng: random.Random, cluster: Cluster, horizon: float) -> list[Question]:
    largest = min(cluster.prefill_tokens, cluster.decode_tokens) // 2
    questions, now, number = [], 0.0, 0
    rate = rng.choice((0.3, 1.0, 2.0))
    while (now := now + rng.expovariate(rate)) < horizon:
        length = rng.randint(1, rng.choice((200, largest // 4, largest)))
        tokens = rng.choice((1, 2, rng.randint(3, 40), rng.randint(40, 300)))
        gateway = f"gateway-{rng.randrange(cluster.num_gateways)}"
        question = Question(f"r{number}", now, length, tokens, rng.getrandbits(32), gateway)
        if rng.random() < 0.2:
            question = replace(question, patience=rng.expovariate(0.3))
        questions.append(question)
        number += 1
    return questions


def _cluster(rng: random.Random, seed: int) -> Cluster:
    heartbeat = rng.choice((0.1, 0.25, 0.5))
    decode_tokens = rng.choice((6_000, 40_000, 100_000))
    return Cluster(
        num_prefill=rng.randint(1, 5),
        num_nodes=rng.randint(1, 2),
        num_decode=rng.randint(1, 3),
        num_brokers=rng.randint(1, 2),
        num_gateways=rng.randint(1, 2),
        prefill_tokens=rng.choice((6_000, 40_000, 100_000)),
        decode_tokens=decode_tokens,
        backends=rng.choice((1, 2, 3, 8)),
        layout=SMALL,
        step=StepCost(base=rng.choice((0.008, 0.03, 0.1)), request=1e-4, token=6.5e-8),
        error=rng.choice((0.0, 0.2)),
        capacity=_pick(rng, (64, 4096)),
        mesh=MeshConfig(
            heartbeat=heartbeat,
            dead_after=3 * heartbeat,
            resend=rng.choice((0.1, 0.3, 0.5)),
            lease=rng.choice((10.0, 60.0)),
            drain=rng.choice((2.0, 10.0)),
            outbox=_pick(rng, (16, 128, 4096)),
            inbox=_pick(rng, (16, 128, 4096)),
        ),
        gateway=GatewayConfig(
            request_timeout=rng.choice((60.0, 300.0)),
            stall_timeout=rng.choice((3.0, 10.0, 30.0)),
            max_attempts=8,
        ),
        router=RouterConfig(
            calibrate_seconds=0.0,
            learn=False,
            max_queue=_pick(rng, (3, 1024)),
            reserve_tokens=rng.choice((16, 64, 256)),
            no_decode_timeout=rng.choice((5.0, 120.0)),
        ),
        schedule=Schedule(
            policy=rng.choice(("cdsp", "cdsp", "cdsp-priced", "single-chunk", "loongserve")),
            improvement_rate=rng.choice((0.0, 0.1)),
            improvement_rate_mapping=rng.choice(({}, {"0.5": 0.05, "3": 0.6})),
            improvement_rate_update_period=rng.choice((2.0, 30.0)),
            min_chunk=rng.choice((16, 128)),
            priced=Pricing(late_binding=rng.random() < 0.8, replan=rng.random() < 0.8),
        ),
        prefill=PrefillConfig(
            step_timeout=rng.choice((2.0, 15.0)),
            start_timeout=rng.choice((5.0, 60.0)),
            transfer_timeout=rng.choice((2.0, 10.0)),
            window=rng.choice((1, 4)),
        ),
        decode=DecodeConfig(max_batch=rng.choice((4, 64)), grow_tokens=rng.choice((16, 256))),
        seed=seed,
    )


def _pick(rng: random.Random, values: Sequence[int]) -> int:
    """Mostly the last and largest value."""
    return rng.choice(values) if rng.random() < 0.3 else values[-1]
