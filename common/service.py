"""What all services share: their process and their membership."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from msgspec import structs
from structlog.typing import FilteringBoundLogger

from common.clock import Clock
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
    Welcome,
)
from common.metrics import Metrics


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
    is_told: bool = False
    """Whether a signal has told this process to stop; the next one ends it at once."""

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
                self._goodbye()
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
            if self._process.stopping.is_set():
                # Right behind, so that a new router plans nothing for who is about to go.
                self._leave()
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
            self._leave()
            await self._process.clock.sleep(self._process.config.mesh.resend)

    def _leave(self) -> None:
        peer = self._process.peer
        self._send(Leave(peer.name, peer.incarnation))

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

    def _goodbye(self) -> None:
        self._heard = self._process.clock.now()
        if self._process.stopping.is_set():
            self._process.drained.set()

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
