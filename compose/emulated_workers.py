"""All emulated workers of a mesh in one process, each a member of its own.

The headers of KV and rings go no further than one process, and a worker without a model is a few
coroutines. What they share is the event loop, the links between them and ZeroMQ's thread; inbox,
membership, books and log are each one's own. One that fails begins a new life, as a process does
that the launcher keeps; one that fails too often ends the process.
"""

import asyncio
import os
from collections.abc import Iterator
from functools import partial
from typing import NamedTuple

import zmq
from msgspec import structs

from common import log as logs
from common.config import Config, EmulatedConfig
from common.emulated_links import EmulatedLinks
from common.emulated_model import EmulatedModel
from common.errors import ConfigError, TetrisError
from common.launch import make_process
from common.life import live
from common.messages import Role
from common.service import Process
from compose.restarts import Restarts
from services.decode_worker import emulated as decode
from services.prefill_worker import emulated as prefill

SERVES = {"prefill-worker": prefill.serve, "decode-worker": decode.serve}


class Seat(NamedTuple):
    """One member's place in the mesh."""

    role: Role
    name: str
    node: str


def seats(emulated: EmulatedConfig) -> Iterator[Seat]:
    """Prefill instances evenly over their machines, then decode instances on one each."""
    for index in range(emulated.num_prefill):
        node = node_of(index, emulated.num_prefill, emulated.nodes)
        yield Seat("prefill-worker", f"prefill-worker-{index}", node)
    for index in range(emulated.decode):
        yield Seat("decode-worker", f"decode-worker-{index}", f"node-{emulated.nodes + index}")


def node_of(index: int, count: int, nodes: int) -> str:
    """The machine of one of `count` prefill instances."""
    return f"node-{index * nodes // count}"


async def serve(process: Process) -> None:
    """Run all workers until they have left or been cancelled.

    Raises:
        ConfigError: no such latency model, or the router refuses a worker.
        TooManyFailures: a worker fails again and again.
    """
    await Workers(process).run()


class TooManyFailures(TetrisError):
    """A worker cannot be kept alive."""


class Workers:
    """The workers of one process, by their seats; the process is told for all of them."""

    def __init__(self, process: Process) -> None:
        # Others depend on this process from the first worker's Hello on.
        process.is_member = True
        self._process = process
        self._model = EmulatedModel.of(process.config)
        self._links = EmulatedLinks(process.config.emulated.bandwidth)
        self._living: dict[str, Process] = {}
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()

    async def run(self) -> None:
        """Keep all workers alive until each has left."""
        try:
            async with asyncio.TaskGroup() as group:
                stopping = group.create_task(self._stop())
                async with asyncio.TaskGroup() as workers:
                    for seat in seats(self._process.config.emulated):
                        workers.create_task(self._keep(seat))
                stopping.cancel()
        finally:
            self._context.destroy()

    async def _stop(self) -> None:
        await self._process.stopping.wait()
        for worker in self._living.values():
            worker.stopping.set()

    async def _keep(self, seat: Seat) -> None:
        restarts, clock = Restarts(), self._process.clock
        while True:
            began = clock.now()
            has_left = await self._live(seat)
            if has_left or self._process.stopping.is_set():
                return
            delay = restarts.delay(clock.now(), clock.now() - began)
            if delay is None:
                raise TooManyFailures(f"{seat.name} fails too often")
            self._process.log.warning("worker starts again", worker=seat.name, seconds=delay)
            if await self._is_stopped_within(delay):
                return

    async def _live(self, seat: Seat) -> bool:
        """One life of a worker: whether it has left, and not failed.

        Raises:
            ConfigError: inside a group; the router refuses it.
        """
        config = _config_of(seat, self._process.config)
        log = logs.configure(config.log, service=seat.role, name=seat.name)
        worker = make_process(seat.role, config, log, self._context)
        self._living[seat.name] = worker
        log.info("started", inbox=worker.mesh.inbox, node=worker.node, pid=os.getpid())
        try:
            await live(worker, partial(self._serve, seat.role))
        except ExceptionGroup as error:
            if error.subgroup(ConfigError) is not None:
                raise
            log.exception("failed")
            return False
        finally:
            del self._living[seat.name]
            await worker.mesh.close()
        log.info("stopped")
        return True

    async def _serve(self, role: Role, worker: Process) -> None:
        await SERVES[role](worker, self._model, self._links)

    async def _is_stopped_within(self, seconds: float) -> bool:
        try:
            async with asyncio.timeout(seconds):
                await self._process.stopping.wait()
        except TimeoutError:
            return False
        return True


def _config_of(seat: Seat, config: Config) -> Config:
    mesh = structs.replace(config.mesh, name=seat.name, node=seat.node)
    return structs.replace(config, mesh=mesh)
