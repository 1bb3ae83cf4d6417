"""A mesh whose engines are not as fast as its latency model says, in virtual time."""

import asyncio
from dataclasses import replace
from pathlib import Path
from statistics import median

from common.clock import LoopClock
from common.config import RouterConfig
from common.messages import ChunkDone
from services.router.measuring import Measured
from tests.simulation.client import Answer
from tests.simulation.cluster import Cluster
from tests.simulation.questions import poisson
from tests.simulation.virtual_loop import run
from tests.simulation.world import World

LEARNING = RouterConfig(calibrate_seconds=0.0, learn=True)
SLOWER = Cluster(num_prefill=8, slowdown=1.5, error=0.05, router=LEARNING)


async def until_calibrated(world: World) -> None:
    clock = LoopClock()
    async with asyncio.timeout(120):
        while "calibrated in" not in world.router.tuning.text():
            await clock.sleep(0.5)


def watched(world: World) -> list[Measured]:
    """All chunks that are measured from now on."""
    measuring, seen = world.router.books.measuring, []
    take = measuring.take

    def note(done: ChunkDone) -> Measured | None:
        measured = take(done)
        if measured is not None:
            seen.append(measured)
        return measured

    measuring.take = note
    return seen


def errors(chunks: list[Measured]) -> float:
    return median(abs(1 - chunk.ratio) for chunk in chunks)


def test_engines_slower_than_the_preset_are_learnt_from_requests(tmp_path: Path) -> None:
    async def main() -> tuple[list[Measured], World, bytes]:
        world = World(tmp_path, SLOWER)
        async with world.running():
            seen = watched(world)
            await world.ask_all(poisson(60, 0.7, seed=1))
            assert await world.settled() == []
            router = world.hosts["router"].process
            assert router is not None
            figures = router.metrics.render()
        return seen, world, figures

    seen, world, figures = run(main())
    assert world.judge.violations == []
    assert errors(seen[:3]) > 0.3
    assert errors(seen[-20:]) < 0.05
    drift = world.router.tuning.learning.drift()
    assert len(drift) >= 2
    assert all(abs(ratio - 1) < 0.1 for ratio in drift.values()), drift
    for size, ratio in drift.items():
        assert f'tetris_latency_drift{{sp="{size}"}} {ratio}'.encode() in figures


def test_an_idle_mesh_calibrates_itself_before_the_first_request(tmp_path: Path) -> None:
    async def main() -> tuple[list[Measured], World, dict[str, Answer]]:
        world = World(tmp_path, replace(SLOWER, router=RouterConfig(learn=False)))
        async with world.running():
            await until_calibrated(world)
            seen = watched(world)
            answers = await world.ask_all(poisson(20, 0.2, seed=2))
            assert await world.settled() == []
        return seen, world, answers

    seen, world, answers = run(main())
    assert world.judge.violations == []
    assert errors(seen) < 0.05
    assert len(answers) == 20


def test_a_request_does_not_wait_for_the_calibration(tmp_path: Path) -> None:
    question = replace(poisson(1, 1.0, seed=3)[0], length=20_000, arrival=0.0, max_tokens=5)

    async def main(router: RouterConfig, after: float) -> Answer:
        world = World(tmp_path, replace(SLOWER, num_prefill=2, error=0.0, router=router))
        async with world.running():
            await asyncio.sleep(after)
            answer = await world.ask(question)
            assert answer.tokens == world.expected(question)
            if router.calibrate_seconds:
                assert "calibrating" in world.router.tuning.text()
                await until_calibrated(world)
            assert await world.settled() == []
        assert world.judge.violations == []
        return answer

    alone = run(main(RouterConfig(calibrate_seconds=0.0, learn=False), 5.0))
    for after in (3.0, 5.0, 6.1):
        answer = run(main(RouterConfig(learn=False), after))
        assert answer.ttft < alone.ttft * 1.6


def test_a_slow_instance_is_planned_around_after_three_chunks(tmp_path: Path) -> None:
    cluster = replace(SLOWER, slowdown=1.0, slowdowns={"prefill-3": 5.0})

    async def main(cluster: Cluster) -> tuple[World, list[Measured], dict[str, Answer]]:
        world = World(tmp_path, cluster)
        async with world.running():
            seen = watched(world)
            answers = await world.ask_all(poisson(60, 0.5, seed=1))
            assert await world.settled() == []
        assert world.judge.violations == []
        return world, seen, answers

    world, seen, answers = run(main(cluster))
    assert world.router.books.speeds.slow == {"prefill-3"}
    real = [one for one in seen if not one.owner.request.startswith("tetris-measures")]
    touched = [index for index, one in enumerate(real) if "prefill-3" in one.computes]
    assert len(touched) >= 3
    # Those that were planned before the third was over.
    assert touched[-1] < len(real) / 3
    assert errors(real[-20:]) < 0.05
    blind = replace(cluster, router=RouterConfig(calibrate_seconds=0.0, learn=False))
    _, _, waiting = run(main(blind))
    late = [f"r{number}" for number in range(40, 60)]
    gain = median(waiting[name].ttft / answers[name].ttft for name in late)
    assert gain > 2
