"""Starts and stops one service: event loop, log, mesh, metrics, signals, watchdog."""

import asyncio
import os
import re
import secrets
import signal
import socket
import time
from functools import partial

import uvloop
from structlog.typing import FilteringBoundLogger

from common import failpoints
from common import log as logs
from common.clock import MonotonicClock
from common.config import Config
from common.errors import ConfigError
from common.mesh import Mesh
from common.messages import Peer, Role
from common.metrics import Metrics
from common.service import Process, Serve
from common.watchdog import TICK, watched
from common.zmq_transport import ZmqTransport

LEFT, FAILED, MISCONFIGURED, TERMINATED = 0, 1, 2, 128 + signal.SIGTERM
"""Exit statuses; `LEFT` is for a member that an operator has drained, not to be started again."""


def launch(role: Role, serve: Serve, config: Config) -> int:
    """Run one service until it ends, fails or is told to stop; returns the exit status.

    SIGTERM and SIGINT have it hand over what it has and end, a second one at once.
    """
    name = config.mesh.name or f"{role}-{secrets.token_hex(3)}"
    log = logs.configure(config.log, service=role, name=name)
    try:
        failpoints.configure(os.environ.get(failpoints.VARIABLE, ""), name)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            process = _process(role, name, config, log)
            runner.run(_run(process, serve))
    except (ConfigError, ExceptionGroup) as error:
        return _report(log, error)
    return TERMINATED if process.stopping.is_set() and not process.is_ordered else LEFT


def _process(role: Role, name: str, config: Config, log: FilteringBoundLogger) -> Process:
    clock, metrics = MonotonicClock(), Metrics()
    mesh = Mesh(_transport(role, config), config.mesh, metrics, clock)
    # Wall-clock nanoseconds: of two lives of one name everybody knows the newer.
    peer = Peer(name, time.time_ns(), mesh.inbox)
    node = config.mesh.node or _node()
    return Process(config, mesh, clock, metrics, log, peer, node)


def _transport(role: Role, config: Config) -> ZmqTransport:
    mesh = config.mesh
    # The longest message carries a prompt; a model's own limit is not known here.
    max_frame = max(1 << 20, 4 * (config.model.max_model_len or 1 << 22) + (64 << 10))
    if role == "router":
        return ZmqTransport(mesh.router, max_frame, address=mesh.router)
    host = mesh.advertise or (socket.gethostname() if mesh.bind == "0.0.0.0" else mesh.bind)
    return ZmqTransport(f"tcp://{mesh.bind}:*", max_frame, address=f"tcp://{host}:*")


def _node() -> str:
    return re.sub(r"[^A-Za-z0-9._-]", "-", socket.gethostname()).strip("._-")[:64] or "node"


async def _run(process: Process, serve: Serve) -> None:
    loop = asyncio.get_running_loop()
    _listen(loop, process)
    crash: asyncio.Future[None] = loop.create_future()
    loop.set_exception_handler(partial(_on_loop_error, crash))

    inbox, node = process.mesh.inbox, process.node
    process.log.info("started", inbox=inbox, node=node, pid=os.getpid())
    try:
        with watched(loop, partial(_hung, process), TICK):
            await _serve(process, serve, crash)
    finally:
        await process.mesh.close()
    process.log.info("stopped")


async def _serve(process: Process, serve: Serve, crash: asyncio.Future[None]) -> None:
    async def serve_to_its_end() -> None:
        await serve(process)
        process.drained.set()

    async with asyncio.TaskGroup() as mesh:
        running = mesh.create_task(process.mesh.run())
        # The service ends first: its last words still find the mesh at work.
        async with asyncio.TaskGroup() as service:
            serving = service.create_task(serve_to_its_end())
            watching = service.create_task(_raise(crash))
            await _end(process)
            serving.cancel()
            watching.cancel()
        running.cancel()


async def _end(process: Process) -> None:
    """Wait until the service has ended, or has been told to stop and had its time for it."""
    async with asyncio.TaskGroup() as group:
        told = group.create_task(_told_and_waited(process))
        await process.drained.wait()
        told.cancel()


async def _told_and_waited(process: Process) -> None:
    await process.stopping.wait()
    if process.is_member:
        await process.clock.sleep(process.config.mesh.drain)
        process.log.warning("not drained in time", seconds=process.config.mesh.drain)
    process.drained.set()


async def _raise(crash: asyncio.Future[None]) -> None:
    await crash


def _on_loop_error(
    crash: asyncio.Future[None], loop: asyncio.AbstractEventLoop, context: dict[str, object]
) -> None:
    """A bug in a callback ends the process as one in a task does; asyncio alone would go on."""
    error = context.get("exception")
    if "handle" in context and isinstance(error, Exception) and not crash.done():
        crash.set_exception(error)
    else:
        loop.default_exception_handler(context)


def _listen(loop: asyncio.AbstractEventLoop, process: Process) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, _stop, process)
    if directory := os.environ.get(failpoints.DIRECTORY):
        loop.add_signal_handler(signal.SIGUSR2, _rearm, process, directory)


def _stop(process: Process) -> None:
    if process.is_told:
        os._exit(FAILED)
    process.is_told = True
    process.stopping.set()


def _rearm(process: Process, directory: str) -> None:
    try:
        spec = failpoints.reread(directory, process.peer.name)
    except ConfigError as error:
        process.log.warning("failpoints unchanged", reason=str(error))
    else:
        process.log.info("failpoints armed", spec=spec.strip())


def _hung(process: Process, place: str) -> None:
    # Imports and model files take long on a busy machine, and nobody depends on it before.
    is_starting = not process.is_member and process.mesh.inbox != process.config.mesh.router
    if is_starting:
        process.log.warning("starts slowly", place=place)
        return
    process.log.error("event loop hangs", place=place)
    os._exit(FAILED)


def _report(log: FilteringBoundLogger, error: ConfigError | ExceptionGroup[Exception]) -> int:
    cause: Exception | None = error
    while isinstance(cause, ExceptionGroup):
        wrong = cause.subgroup(ConfigError)
        cause = wrong.exceptions[0] if wrong is not None else None
    if cause is None:
        log.error("failed", exc_info=error)
        return FAILED
    log.error("cannot start", reason=str(cause))
    return MISCONFIGURED
