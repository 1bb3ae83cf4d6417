import asyncio
import random
from collections.abc import Awaitable, Callable

import pytest
import structlog

from common.clock import LoopClock
from common.config import Config, MeshConfig, ModelConfig
from common.life import live
from common.memory_transport import MemoryNetwork
from common.mesh import Mesh
from common.messages import Cancel, Peer
from common.metrics import Metrics
from common.service import Process
from tests.simulation.virtual_loop import run

CONFIG = Config(model=ModelConfig(path="p", name="n"), mesh=MeshConfig(drain=7.0))


def make(network: MemoryNetwork, name: str = "one") -> Process:
    clock, metrics = LoopClock(), Metrics()
    mesh = Mesh(network.bind(f"mem://{name}"), CONFIG.mesh, metrics, clock)
    log = structlog.make_filtering_bound_logger(50)(None, [], {})
    return Process(CONFIG, mesh, clock, metrics, log, Peer(name, 1, mesh.inbox), "node")


def lived(
    serve: Callable[[Process], Awaitable[None]], beside: Callable[[Process], Awaitable[None]]
) -> float:
    """Virtual seconds of a life."""

    async def main() -> float:
        process, began = make(MemoryNetwork(random.Random(0))), LoopClock().now()
        async with asyncio.TaskGroup() as group:
            group.create_task(beside(process))
            await live(process, serve)
        return LoopClock().now() - began

    return run(main())


async def nothing(process: Process) -> None:
    return


async def stopped(process: Process) -> None:
    await asyncio.sleep(1.0)
    process.stopping.set()


async def for_ever(process: Process) -> None:
    await asyncio.Event().wait()


def test_a_service_that_ends_by_itself_ends_the_life() -> None:
    async def short(process: Process) -> None:
        await asyncio.sleep(2.0)

    assert lived(short, nothing) == 2.0


def test_who_is_no_member_ends_when_told() -> None:
    assert lived(for_ever, stopped) == 1.0


def test_a_member_has_its_time_to_hand_over() -> None:
    async def member(process: Process) -> None:
        process.is_member = True
        await for_ever(process)

    assert lived(member, stopped) == 8.0


def test_a_member_that_is_drained_ends_before_its_time_is_over() -> None:
    async def drained(process: Process) -> None:
        process.is_member = True
        await asyncio.sleep(3.0)
        process.drained.set()
        await for_ever(process)

    assert lived(drained, stopped) == 3.0


def test_the_error_of_a_service_is_the_lifes() -> None:
    async def broken(process: Process) -> None:
        raise ValueError("a bug")

    with pytest.raises(ExceptionGroup) as caught:
        lived(broken, nothing)
    assert caught.group_contains(ValueError, match="a bug")


def test_the_mesh_runs_as_long_as_the_service_unwinds() -> None:
    async def main() -> object:
        network = MemoryNetwork(random.Random(0))
        one, other = make(network), make(network, "other")

        async def says_goodbye(process: Process) -> None:
            try:
                await asyncio.Event().wait()
            finally:
                process.mesh.send(other.mesh.inbox, Cancel("r", 1))
                await asyncio.sleep(0.5)

        async with asyncio.TaskGroup() as group:
            running = group.create_task(other.mesh.run())
            one.stopping.set()
            await live(one, says_goodbye)
            received, _ = await other.mesh.receive()
            running.cancel()
        return received

    assert run(main()) == Cancel("r", 1)
