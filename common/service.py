"""What all services share: their process, their membership, their start and stop."""

import asyncio
import os
import re
import secrets
import signal
import socket
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial

import uvloop
from msgspec import structs
from structlog.typing import FilteringBoundLogger

from common import failpoints
from common import log as logs
from common.clock import Clock, MonotonicClock
from common.config import Config
from common.errors import ConfigError
from common.mesh import Mesh
from common.messages import (
    LOST_MEMBER,
    UNKNOWN_MEMBER,
    ClusterState,
    ControlMessage,
    Facts,
    Goodbye,
    Heartbeat,
    Hello,
    Leave,
    Peer,
    Refused,
    Role,
    Welcome,
)
from common.metrics import Metrics
from common.zmq_transport import ZmqTransport

LEFT, FAILED, MISCONFIGURED, TERMINATED = 0, 1, 2, 128 + signal.SIGTERM
"""Exit statuses; `LEFT` is for a member that an operator has drained, not to be started again."""


@dataclass
class Process:
    """Everything a service is given."""

    config: Config
    mesh: Mesh
    clock: Clock
    metrics: Metrics
    log: FilteringBoundLogger
    peer: Peer
    """Changes when this process has to begin a new life: read it when you need it."""
    node: str
    stopping: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when this process is to hand over what it has and end."""
    drained: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when nothing is left to hand over; the service is then cancelled."""
    is_member: bool = False
    """Whether a router has ever taken this process in, so that others may depend on it."""
    is_ordered: bool = False
    """Whether an operator wants this process to leave for good."""

    def renew(self) -> None:
        """Begin a new life under the old name."""
        self.peer = structs.replace(self.peer, incarnation=self.peer.incarnation + 1)


Serve = Callable[[Process], Awaitable[None]]


class Membership:
    """Says Hello until the router answers, then sends facts, and says Hello again when asked.

    The service passes what it receives through `receive` and runs `run` beside its own loops.

    Args:
        fence: lets go of everything, because the router counts this life as lost and has given
            all of it to others; the member then joins as a new life.
    """

    def __init__(
        self,
        process: Process,
        hello: Hello,
        facts: Callable[[], Facts],
        fence: Callable[[], None],
    ) -> None:
        self.welcome: Welcome | None = None
        self._process = process
        self._hello = hello
        self._facts = facts
        self._fence = fence
        self._news = asyncio.Event()
        self._refusal: str | None = None
        self._heard = process.clock.now()

    @property
    def silence(self) -> float:
        """Seconds since the router was heard last: the age of this member's leases."""
        return self._process.clock.now() - self._heard

    def receive(self, message: ControlMessage) -> bool:
        """Take note of the router's answers; True when the message needs nobody else."""
        incarnation = self._process.peer.incarnation
        match message:
            case Welcome() | Refused() | Goodbye() if message.incarnation != incarnation:
                pass
            case Welcome():
                self._accept(message)
            case Refused():
                self._refuse(message.reason)
            case Goodbye():
                self._process.drained.set()
            case ClusterState(epoch=epoch):
                if self.welcome is not None and epoch != self.welcome.epoch:
                    self._rejoin("another router")
                return False
            case _:
                return False
        return True

    async def run(self) -> None:
        """Join, beat, and join again, until cancelled.

        Raises:
            ConfigError: the router refuses this member, with its reason.
        """
        async with asyncio.TaskGroup() as group:
            group.create_task(self._stay())
            group.create_task(self._part())

    async def _stay(self) -> None:
        while True:
            await self._join()
            await self._beat()

    async def _join(self) -> None:
        while self.welcome is None:
            self._send(structs.replace(self._hello, peer=self._process.peer))
            await self._wait(self._process.config.mesh.resend)
            if self._refusal is not None:
                raise ConfigError(f"refused by the router: {self._refusal}")

    async def _beat(self) -> None:
        while self.welcome is not None:
            peer = self._process.peer
            role, facts = self._hello.role, self._facts()
            self._send(Heartbeat(role, peer.name, peer.incarnation, facts, peer.inbox))
            await self._wait(self._process.config.mesh.heartbeat)

    async def _part(self) -> None:
        """Once told to stop, ask the router until it can do without this member."""
        await self._process.stopping.wait()
        self._process.log.info("leaving", held=not self._facts().idle)
        while True:
            # Nobody answers, and nobody would miss anything: as after the end of a whole mesh.
            is_alone = self.silence > 2 * self._process.config.mesh.dead_after
            if is_alone and self._facts().idle:
                self._process.drained.set()
            peer = self._process.peer
            self._send(Leave(peer.name, peer.incarnation))
            await self._process.clock.sleep(self._process.config.mesh.resend)

    async def _wait(self, seconds: float) -> None:
        # Wakes early only for what changes the membership.
        try:
            async with asyncio.timeout(seconds):
                await self._news.wait()
        except TimeoutError:
            return
        self._news.clear()

    def _accept(self, welcome: Welcome) -> None:
        self._heard = self._process.clock.now()
        if self.welcome is None:
            self._process.log.info("joined", epoch=welcome.epoch)
            self._news.set()
        self.welcome = welcome
        self._process.is_member = True
        if welcome.leave and not self._process.stopping.is_set():
            self._process.is_ordered = True
            self._process.stopping.set()

    def _refuse(self, reason: str) -> None:
        self._heard = self._process.clock.now()
        if reason == LOST_MEMBER:
            self._fence()
            self._process.renew()
            self._rejoin(reason)
        elif self.welcome is not None:
            self._rejoin(reason)
        elif reason != UNKNOWN_MEMBER:
            self._refusal = reason
            self._news.set()

    def _rejoin(self, why: str) -> None:
        self._process.log.warning("joining again", why=why)
        self.welcome = None
        self._news.set()

    def _send(self, message: ControlMessage) -> None:
        self._process.mesh.send(self._process.config.mesh.router, message)


def launch(role: Role, serve: Serve, config: Config) -> int:
    """Run one service until it ends, fails or is told to stop; returns the exit status.

    SIGTERM and SIGINT have it hand over what it has and end, a second one at once.
    """
    name = config.mesh.name or f"{role}-{secrets.token_hex(3)}"
    log = logs.configure(config.log, service=role, name=name)
    try:
        failpoints.configure(os.environ.get(failpoints.VARIABLE, ""))
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
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, _stop, process.stopping)
    crash: asyncio.Future[None] = loop.create_future()
    loop.set_exception_handler(partial(_on_loop_error, crash))

    async def serve_to_its_end() -> None:
        await serve(process)
        process.drained.set()

    process.log.info("started", inbox=process.mesh.inbox, node=process.node)
    try:
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
    finally:
        await process.mesh.close()
    process.log.info("stopped")


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
