"""A member with its service, and a router that answers as told, in virtual time."""

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import structlog

from common.clock import LoopClock
from common.config import Config, MeshConfig, ModelConfig
from common.memory_transport import Faults, MemoryNetwork
from common.mesh import Mesh
from common.messages import (
    PROTOCOL,
    ControlMessage,
    GatewayFacts,
    Heartbeat,
    Hello,
    ModelCard,
    Peer,
    Welcome,
)
from common.metrics import Metrics
from common.service import Membership, Process

MODEL = ModelConfig(path="unused", name="tiny")
Answer = Callable[[ControlMessage], ControlMessage | None]


class Router:
    """Answers each message as told and remembers when it came."""

    def __init__(self, mesh: Mesh, answer: Answer) -> None:
        self.mesh = mesh
        self.answer = answer
        self.seen: list[tuple[float, str]] = []
        self.messages: list[ControlMessage] = []

    async def run(self) -> None:
        while True:
            message, _ = await self.mesh.receive()
            self.messages.append(message)
            self.seen.append((asyncio.get_running_loop().time(), type(message).__name__))
            if answer := self.answer(message):
                self.mesh.send("member", answer)

    def kinds(self) -> list[str]:
        return [kind for _, kind in self.seen]


class Gateway:
    """What a member's service adds: its streams, which a fence drops."""

    def __init__(self, process: Process) -> None:
        self.process = process
        self.streams = 3
        self.fenced: list[int] = []

    def facts(self) -> GatewayFacts:
        return GatewayFacts(self.streams)

    def fence(self) -> None:
        self.streams = 0
        self.fenced.append(self.process.peer.incarnation)


@asynccontextmanager
async def member(
    answer: Answer, faults: Faults | None = None
) -> AsyncIterator[tuple[Router, Membership]]:
    """A member and a router in virtual time."""
    async with serving(answer, faults) as (router, membership, _):
        yield router, membership


@asynccontextmanager
async def serving(
    answer: Answer, faults: Faults | None = None
) -> AsyncIterator[tuple[Router, Membership, Gateway]]:
    """A member with its service, and a router."""
    network = MemoryNetwork(random.Random(1), faults)
    config = Config(model=MODEL, mesh=MeshConfig(router="router"))
    meshes = [
        Mesh(network.bind(at), config.mesh, Metrics(), LoopClock()) for at in ("router", "member")
    ]
    router = Router(meshes[0], answer)
    peer = Peer("gateway-1", 11, "member")
    process = Process(
        config,
        meshes[1],
        LoopClock(),
        Metrics(),
        structlog.wrap_logger(structlog.ReturnLogger()),
        peer,
        "node",
    )
    hello = Hello("gateway", peer, "node", PROTOCOL, ModelCard("tiny", "f", 10))
    gateway = Gateway(process)
    membership = Membership(process, hello, gateway.facts, gateway.fence)

    async def listen() -> None:
        while True:
            membership.receive((await meshes[1].receive())[0])

    async with asyncio.TaskGroup() as group:
        loops = [mesh.run() for mesh in meshes] + [router.run(), listen(), membership.run()]
        tasks = [group.create_task(each) for each in loops]
        yield router, membership, gateway
        for task in tasks:
            task.cancel()
    for mesh in meshes:
        await mesh.close()


def welcoming(epoch: int = 1) -> Answer:
    return lambda message: Welcome(epoch, 11) if isinstance(message, Hello) else None


def books(message: ControlMessage) -> ControlMessage | None:
    """A router that knows every life it is told of."""
    match message:
        case Hello(peer=peer):
            return Welcome(1, peer.incarnation)
        case Heartbeat(incarnation=incarnation):
            return Welcome(1, incarnation)
    return None
