"""What all services share: their process, their membership, their start and stop."""

import asyncio
import os
import re
import secrets
import signal
import socket
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial

import uvloop
from structlog.typing import FilteringBoundLogger

from common import failpoints
from common import log as logs
from common.clock import Clock, MonotonicClock
from common.config import Config
from common.errors import ConfigError
from common.mesh import Mesh
from common.messages import (
    UNKNOWN_MEMBER,
    ClusterState,
    ControlMessage,
    Facts,
    Heartbeat,
    Hello,
    Peer,
    Refused,
    Role,
    Welcome,
)
from common.metrics import Metrics
from common.zmq_transport import ZmqTransport

STOPPED, FAILED, MISCONFIGURED = 0, 1, 2
"""Exit statuses."""


@dataclass(frozen=True)
class Process:
    """Everything a service is given."""

    config: Config
    mesh: Mesh
    clock: Clock
    metrics: Metrics
    log: FilteringBoundLogger
    peer: Peer
    node: str


Serve = Callable[[Process], Awaitable[None]]


class Membership:
    """Says Hello until the router answers, then sends facts, and says Hello again when asked.

    The service passes what it receives through `receive` and runs `run` beside its own loops.
    """

    def __init__(self, process: Process, hello: Hello, facts: Callable[[], Facts]) -> None:
        self.welcome: Welcome | None = None
        self._process = process
        self._hello = hello
        self._facts = facts
        self._answered = asyncio.Event()
        self._refusal: str | None = None

    def receive(self, message: ControlMessage) -> bool:
        """Take note of the router's answers; True when the message needs nobody else."""
        match message:
            case Welcome(incarnation=incarnation):
                if incarnation == self._hello.peer.incarnation:
                    self._accept(message)
            case Refused(incarnation=incarnation, reason=reason):
                if incarnation == self._hello.peer.incarnation:
                    self._refuse(reason)
            case ClusterState(epoch=epoch):
                if self.welcome is not None and epoch != self.welcome.epoch:
                    self._leave()
                return False
            case _:
                return False
        return True

    async def run(self) -> None:
        """Join, beat, and join again, until cancelled.

        Raises:
            ConfigError: the router refuses this member, with its reason.
        """
        while True:
            await self._join()
            await self._beat()

    async def _join(self) -> None:
        while self.welcome is None:
            self._send(self._hello)
            await self._answer(self._process.config.mesh.resend)
            if self._refusal is not None:
                raise ConfigError(f"refused by the router: {self._refusal}")

    async def _beat(self) -> None:
        while self.welcome is not None:
            peer = self._hello.peer
            role, facts = self._hello.role, self._facts()
            self._send(Heartbeat(role, peer.name, peer.incarnation, facts, peer.inbox))
            await self._answer(self._process.config.mesh.heartbeat)

    async def _answer(self, seconds: float) -> None:
        # Wakes early only for what changes the membership.
        try:
            async with asyncio.timeout(seconds):
                await self._answered.wait()
        except TimeoutError:
            return
        self._answered.clear()

    def _accept(self, welcome: Welcome) -> None:
        if welcome != self.welcome:
            self._process.log.info("joined", epoch=welcome.epoch)
            self.welcome = welcome
            self._answered.set()

    def _refuse(self, reason: str) -> None:
        if self.welcome is not None:
            self._leave()
        elif reason != UNKNOWN_MEMBER:
            self._refusal = reason
            self._answered.set()

    def _leave(self) -> None:
        self._process.log.info("joining again")
        self.welcome = None
        self._answered.set()

    def _send(self, message: ControlMessage) -> None:
        self._process.mesh.send(self._process.config.mesh.router, message)


def launch(role: Role, serve: Serve, config: Config) -> int:
    """Run one service until it ends, fails or is told to stop; returns the exit status.

    SIGTERM and SIGINT stop it cleanly, a second one at once.
    """
    name = config.mesh.name or f"{role}-{secrets.token_hex(3)}"
    log = logs.configure(config.log, service=role, name=name)
    try:
        failpoints.configure(os.environ.get(failpoints.VARIABLE, ""))
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_run(_process(role, name, config, log), serve))
    except (ConfigError, ExceptionGroup) as error:
        return _report(log, error)
    return STOPPED


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
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, _stop, stop)
    crash: asyncio.Future[None] = loop.create_future()
    loop.set_exception_handler(partial(_on_loop_error, crash))

    async def serve_to_its_end() -> None:
        await serve(process)
        stop.set()

    process.log.info("started", inbox=process.mesh.inbox, node=process.node)
    try:
        async with asyncio.TaskGroup() as mesh:
            running = mesh.create_task(process.mesh.run())
            # The service ends first: its last words still find the mesh at work.
            async with asyncio.TaskGroup() as service:
                serving = service.create_task(serve_to_its_end())
                watching = service.create_task(_raise(crash))
                await stop.wait()
                serving.cancel()
                watching.cancel()
            running.cancel()
    finally:
        await process.mesh.close()
    process.log.info("stopped")


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


def _stop(stop: asyncio.Event) -> None:
    if stop.is_set():
        os._exit(FAILED)
    stop.set()


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
