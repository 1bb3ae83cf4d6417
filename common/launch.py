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
import zmq
from msgspec import structs
from structlog.typing import FilteringBoundLogger

from common import failpoints
from common import log as logs
from common.clock import MonotonicClock
from common.config import Config
from common.errors import ConfigError
from common.life import live
from common.mesh import Mesh
from common.messages import Peer
from common.metrics import Metrics
from common.service import Process, Serve
from common.watchdog import TICK, watched
from common.zmq_transport import ZmqTransport

LEFT, FAILED, MISCONFIGURED, TERMINATED = 0, 1, 2, 128 + signal.SIGTERM
"""Exit statuses; `LEFT` is for a member that an operator has drained, not to be started again."""


def launch(role: str, serve: Serve, config: Config) -> int:
    """Run one service until it ends, fails or is told to stop; returns the exit status.

    SIGTERM and SIGINT have it hand over what it has and end, a second one at once.
    """
    config = _named(role, config)
    name = str(config.mesh.name)
    log = logs.configure(config.log, service=role, name=name)
    try:
        failpoints.configure(os.environ.get(failpoints.VARIABLE, ""), name)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            process = make_process(role, config, log)
            runner.run(_run(process, serve))
    except (ConfigError, ExceptionGroup) as error:
        return _report(log, error)
    return TERMINATED if process.stopping.is_set() and not process.is_ordered else LEFT


def make_process(
    role: str,
    config: Config,
    log: FilteringBoundLogger,
    context: zmq.Context[zmq.Socket[bytes]] | None = None,
) -> Process:
    """A new life of the member that `mesh.name` names, with an inbox of its own.

    Args:
        role: of the member; a router's inbox is at `mesh.router`.
        config: of the member.
        log: of the member.
        context: of ZeroMQ, where members of one process share it.

    Raises:
        ConfigError: the inbox cannot be bound.
    """
    clock, metrics = MonotonicClock(), Metrics()
    mesh = Mesh(_transport(role, config, context), config.mesh, metrics, clock)
    # Wall-clock nanoseconds: of two lives of one name everybody knows the newer.
    peer = Peer(config.mesh.name or role, time.time_ns(), mesh.inbox)
    return Process(config, mesh, clock, metrics, log, peer, config.mesh.node or _node())


def _named(role: str, config: Config) -> Config:
    name = config.mesh.name or f"{role}-{secrets.token_hex(3)}"
    return structs.replace(config, mesh=structs.replace(config.mesh, name=name))


def _transport(
    role: str, config: Config, context: zmq.Context[zmq.Socket[bytes]] | None
) -> ZmqTransport:
    mesh = config.mesh
    # The longest message carries a prompt; a model's own limit is not known here.
    max_frame = max(1 << 20, 4 * (config.model.max_model_len or 1 << 22) + (64 << 10))
    if role == "router":
        return ZmqTransport(mesh.router, max_frame, mesh.router, context)
    host = mesh.advertise or (socket.gethostname() if mesh.bind == "0.0.0.0" else mesh.bind)
    return ZmqTransport(f"tcp://{mesh.bind}:*", max_frame, f"tcp://{host}:*", context)


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
    async with asyncio.TaskGroup() as group:
        watching = group.create_task(_raise(crash))
        await live(process, serve)
        watching.cancel()


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
