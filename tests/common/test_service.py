import asyncio
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
import structlog

from common.clock import LoopClock
from common.config import Config, MeshConfig, ModelConfig
from common.errors import ConfigError
from common.memory_transport import Faults, MemoryNetwork
from common.mesh import Mesh
from common.messages import (
    PROTOCOL,
    UNKNOWN_MEMBER,
    Cancel,
    ClusterState,
    ControlMessage,
    GatewayFacts,
    Heartbeat,
    Hello,
    ModelCard,
    Peer,
    Refused,
    Welcome,
)
from common.metrics import Metrics
from common.service import Membership, Process
from tests.simulation.virtual_loop import run

MODEL = ModelConfig(path="unused", name="tiny")
Answer = Callable[[ControlMessage], ControlMessage | None]


class Router:
    """Answers each message as told and remembers when it came."""

    def __init__(self, mesh: Mesh, answer: Answer) -> None:
        self.mesh = mesh
        self.answer = answer
        self.seen: list[tuple[float, str]] = []

    async def run(self) -> None:
        while True:
            message, _ = await self.mesh.receive()
            self.seen.append((asyncio.get_running_loop().time(), type(message).__name__))
            if answer := self.answer(message):
                self.mesh.send("member", answer)

    def kinds(self) -> list[str]:
        return [kind for _, kind in self.seen]


@asynccontextmanager
async def member(
    answer: Answer, faults: Faults | None = None
) -> AsyncIterator[tuple[Router, Membership]]:
    """A member and a router in virtual time."""
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
    membership = Membership(process, hello, lambda: GatewayFacts(3))

    async def listen() -> None:
        while True:
            membership.receive((await meshes[1].receive())[0])

    async with asyncio.TaskGroup() as group:
        loops = [mesh.run() for mesh in meshes] + [router.run(), listen(), membership.run()]
        tasks = [group.create_task(each) for each in loops]
        yield router, membership
        for task in tasks:
            task.cancel()
    for mesh in meshes:
        await mesh.close()


def welcoming(epoch: int = 1) -> Answer:
    return lambda message: Welcome(epoch, 11) if isinstance(message, Hello) else None


def test_hello_is_repeated_until_welcome_and_facts_follow():
    async def main() -> None:
        async with member(lambda _: None) as (router, membership):
            await asyncio.sleep(2.25)
            assert router.kinds() == ["Hello"] * 5
            assert membership.welcome is None
            router.answer = welcoming()
            await asyncio.sleep(2.0)
            assert membership.welcome == Welcome(1, 11)
            assert router.kinds()[5:] == ["Hello"] + ["Heartbeat"] * 4
            times = [when for when, kind in router.seen if kind == "Heartbeat"]
            assert times == pytest.approx([times[0] + 0.5 * beat for beat in range(4)], abs=0.005)

    run(main())


def test_heartbeats_carry_the_facts_of_the_moment():
    beats = []

    def answer(message: ControlMessage) -> ControlMessage | None:
        if isinstance(message, Heartbeat):
            beats.append(message)
        return welcoming()(message)

    async def main() -> None:
        async with member(answer):
            await asyncio.sleep(0.25)
        assert beats == [Heartbeat("gateway", "gateway-1", 11, GatewayFacts(3))]

    run(main())


def test_a_refused_member_does_not_start_and_says_why():
    async def main() -> None:
        async with member(lambda _: Refused(11, "another model")):
            await asyncio.sleep(10.0)

    with pytest.raises(ExceptionGroup) as caught:
        run(main())
    assert caught.group_contains(ConfigError, match="refused by the router: another model")


def test_answers_to_another_life_of_this_member_mean_nothing():
    answers = iter([Refused(10, "old"), Welcome(1, 10), Refused(11, UNKNOWN_MEMBER)])

    async def main() -> None:
        async with member(lambda _: next(answers, None)) as (router, membership):
            await asyncio.sleep(2.25)
            assert membership.welcome is None
            assert router.kinds() == ["Hello"] * 5

    run(main())


@pytest.mark.parametrize("lost", [Refused(11, UNKNOWN_MEMBER), ClusterState(2, 0, 0, 0, 0)])
def test_a_router_that_lost_its_books_is_greeted_again_at_once(lost: ControlMessage):
    def answer(message: ControlMessage) -> ControlMessage:
        return Welcome(2, 11) if isinstance(message, Hello) else lost

    async def main() -> None:
        async with member(welcoming(1)) as (router, membership):
            await asyncio.sleep(1.75)
            router.seen.clear()
            router.answer = answer
            await asyncio.sleep(0.3)
            router.answer = welcoming(2)
            await asyncio.sleep(2.0)
            assert membership.welcome == Welcome(2, 11)
            first_beat, hello = router.seen[:2]
            assert (first_beat[1], hello[1]) == ("Heartbeat", "Hello")
            assert hello[0] - first_beat[0] < 0.01
            assert router.kinds().count("Hello") >= 1
            assert router.kinds()[-3:] == ["Heartbeat"] * 3

    run(main())


def test_a_lossy_network_only_delays_joining():
    async def main() -> None:
        async with member(welcoming(), Faults(loss=0.5, duplication=0.5)) as (_, membership):
            await asyncio.sleep(20.0)
            assert membership.welcome == Welcome(1, 11)

    run(main())


def test_messages_of_others_are_left_to_the_service():
    async def main() -> None:
        async with member(welcoming()) as (_, membership):
            assert not membership.receive(Cancel("r", 1))
            assert not membership.receive(ClusterState(1, 0, 0, 0, 0))
            assert membership.receive(Welcome(1, 10))
            assert membership.receive(Refused(10, "old"))

    run(main())
