import asyncio
import json
import os
import random
import signal
import socket
import subprocess
import sys
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


PROGRAM = """
import asyncio, sys
from common.config import Config, MeshConfig, ModelConfig
from common.errors import ConfigError
from common.messages import Cancel
from common.service import launch

async def serve(process):
    process.log.info("serving", endpoint=process.mesh.inbox)
    match sys.argv[2]:
        case "wait":
            process.mesh.send("tcp://127.0.0.1:9", Cancel("r", 1))
            try:
                await process.mesh.receive()
            finally:
                process.log.info("unwinding")
        case "return":
            return
        case "refuse":
            raise ConfigError("no such model")
        case "fail":
            hidden = "secret prompt"
            raise ValueError("a bug")
        case "stay":
            while True:
                try:
                    await asyncio.sleep(60)
                except asyncio.CancelledError:
                    process.log.info("staying")

mesh = MeshConfig(router=sys.argv[3])
sys.exit(launch(sys.argv[1], serve, Config(model=ModelConfig(path="p", name="n"), mesh=mesh)))
"""


class Program:
    """A service in a process of its own, warnings being errors."""

    def __init__(
        self, role: str, what: str, router: str = "tcp://127.0.0.1:5550", **env: str
    ) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-X", "dev", "-W", "error", "-c", PROGRAM, role, what, router],
            env=os.environ | {"PYTHONPATH": "."} | env,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.lines: list[dict[str, object]] = []

    def until(self, event: str) -> dict[str, object]:
        assert self._process.stderr is not None
        for text in self._process.stderr:
            self.lines.append(json.loads(text))
            if self.lines[-1]["event"] == event:
                return self.lines[-1]
        raise AssertionError(self.lines)

    def signal(self, number: int) -> None:
        self._process.send_signal(number)

    def end(self) -> int:
        _, rest = self._process.communicate(timeout=60)
        self.lines += [json.loads(text) for text in rest.splitlines()]
        return self._process.returncode

    def events(self) -> list[object]:
        return [line["event"] for line in self.lines]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_a_service_cleanly_without_a_word_of_warning(number: int):
    program = Program("prefill-worker", "wait")
    line = program.until("serving")
    assert line["service"] == "prefill-worker"
    assert str(line["name"]).startswith("prefill-worker-")
    program.signal(number)
    assert program.end() == 0
    assert program.events() == ["started", "serving", "unwinding", "stopped"]


def test_a_service_that_ends_by_itself_ends_well():
    program = Program("kv-transfer", "return")
    assert program.end() == 0
    assert program.events() == ["started", "serving", "stopped"]


def test_a_wrong_configuration_is_one_line_and_status_2():
    program = Program("gateway", "refuse")
    assert program.end() == 2
    assert program.lines[-1]["event"] == "cannot start"
    assert program.lines[-1]["reason"] == "no such model"
    failpoint = Program("gateway", "wait", TETRIS_FAILPOINTS="nonsense")
    assert failpoint.end() == 2
    assert failpoint.events() == ["cannot start"]


def test_a_bug_is_logged_once_without_locals_and_is_status_1():
    program = Program("decode-worker", "fail")
    assert program.end() == 1
    assert program.events() == ["started", "serving", "failed"]
    assert "a bug" in json.dumps(program.lines[-1])
    assert "secret prompt" not in json.dumps(program.lines[-1])


def test_a_second_signal_ends_a_service_that_does_not_stop():
    program = Program("decode-worker", "stay")
    program.until("serving")
    program.signal(signal.SIGTERM)
    program.until("staying")
    program.signal(signal.SIGTERM)
    assert program.end() == 1


def test_the_router_binds_the_well_known_address_and_says_so_when_it_is_taken():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{taken.getsockname()[1]}"
        refused = Program("router", "wait", address)
        assert refused.end() == 2
        assert str(refused.lines[-1]["reason"]).startswith(f"cannot bind {address}")
    router = Program("router", "wait", address)
    assert router.until("serving")["endpoint"] == address
    router.signal(signal.SIGTERM)
    assert router.end() == 0
