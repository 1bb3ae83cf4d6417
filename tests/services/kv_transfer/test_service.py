import asyncio
import json
import random
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import pytest
import structlog
from msgspec import structs

from common import failpoints
from common.clock import MonotonicClock
from common.config import Config, MeshConfig, ModelConfig
from common.memory_transport import MemoryNetwork
from common.mesh import Mesh
from common.messages import (
    LOST_MEMBER,
    BrokerFacts,
    Cancel,
    ControlMessage,
    EndOfRequest,
    Grant,
    Handshake,
    Heartbeat,
    Hello,
    Loan,
    Peer,
    Refused,
    Release,
    Target,
    Welcome,
)
from common.metrics import Metrics
from common.service import Process
from services.kv_transfer.service import MAX_TARGETS, Broker, serve

SECONDS = 10.0


class Client:
    """Sender, decode and router in one, at the other end of the broker's mesh."""

    def __init__(self, mesh: Mesh) -> None:
        self.mesh = mesh
        self.grants: asyncio.Queue[Grant] = asyncio.Queue()
        self.hello: Hello | None = None
        self.is_router = True
        self.beats: asyncio.Queue[BrokerFacts] = asyncio.Queue()

    async def listen(self) -> None:
        while True:
            match (await self.mesh.receive())[0]:
                case Hello() as hello:
                    self.hello = hello
                    self.send(Welcome(1, hello.peer.incarnation))
                case Heartbeat(facts=BrokerFacts() as facts) as beat:
                    await self.beats.put(facts)
                    if self.is_router:
                        self.send(Welcome(1, beat.incarnation))
                case Grant() as grant:
                    await self.grants.put(grant)

    def send(self, message: ControlMessage) -> None:
        self.mesh.send("b", message)

    def shake(
        self, request: str, incarnation: int = 1, name: str = "d", held: Loan | None = None
    ) -> None:
        target = Target(name, incarnation, "d", "tcp://d:2", 1, "b")
        self.send(Handshake(request, 1, 0, 0, Peer("p", 1, "p"), target, 1, 1, held))

    async def grant(self) -> str:
        return (await self.whole_grant()).request

    async def whole_grant(self) -> Grant:
        async with asyncio.timeout(SECONDS):
            return await self.grants.get()

    async def facts(self, wanted: BrokerFacts) -> None:
        """Wait until a heartbeat says so."""
        async with asyncio.timeout(SECONDS):
            while structs.replace(await self.beats.get(), held=(), oldest=0.0) != wanted:
                pass

    async def held(self, wanted: set[tuple[str, int]]) -> None:
        """Wait until a heartbeat names these requests with so many backends, and no others."""
        async with asyncio.timeout(SECONDS):
            while {(held.request, held.slots) for held in (await self.beats.get()).held} != wanted:
                pass


def play(path: Path, scenario: Callable[[Client], Awaitable[None]], lease: float = 60.0) -> None:
    (path / "config.json").write_text(json.dumps({"max_position_embeddings": 64}))
    (path / "model.safetensors").write_bytes(b"weights")
    config = MeshConfig(router="p", heartbeat=0.02, resend=0.02, lease=lease)

    async def main() -> None:
        network, clock = MemoryNetwork(random.Random(1)), MonotonicClock()
        ours, theirs = (Mesh(network.bind(e), config, Metrics(), clock) for e in "bp")
        model = ModelConfig(path=str(path), name="m")
        log = structlog.make_filtering_bound_logger(50)(None, [], {})
        peer = Peer("broker-0", 1, "b")
        settings = Config(model=model, mesh=config)
        process = Process(settings, ours, clock, Metrics(), log, peer, "node-0")
        client = Client(theirs)
        async with asyncio.TaskGroup() as group:
            runs = (ours.run(), theirs.run(), client.listen(), serve(process))
            tasks = [group.create_task(run) for run in runs]
            await client.facts(BrokerFacts(0, 0, 0))
            await scenario(client)
            for task in tasks:
                task.cancel()
        await ours.close()
        await theirs.close()

    asyncio.run(main())


def test_it_joins_and_grants_to_the_senders_inbox(tmp_path: Path) -> None:
    async def scenario(client: Client) -> None:
        assert client.hello is not None
        assert client.hello.role == "kv-transfer"
        client.shake("a")
        assert await client.grant() == "a"
        client.shake("b")
        await client.facts(BrokerFacts(backends=1, lent=1, waiting=1))
        assert (await client.beats.get()).oldest > 0
        client.send(Release("a", 1, 0, 0, "d", 2))  # of another life of the target
        client.send(Release("a", 1, 0, 0, "e", 1))  # of an unknown target
        client.send(Release("a", 1, 0, 0, "d", 1))
        assert await client.grant() == "b"
        client.send(Release("b", 1, 0, 0, "d", 1))
        await client.facts(BrokerFacts(backends=1, lent=0, waiting=0))

    play(tmp_path, scenario)


@pytest.mark.parametrize("end", [EndOfRequest("a", 1, 0, "abort"), Cancel("a", 1)])
def test_the_end_of_a_request_frees_its_backend(tmp_path: Path, end: ControlMessage) -> None:
    async def scenario(client: Client) -> None:
        for request in "ab":
            client.shake(request)
        assert await client.grant() == "a"
        client.send(end)
        assert await client.grant() == "b"

    play(tmp_path, scenario)


def test_a_handshake_after_the_end_of_its_request_gets_no_backend(tmp_path: Path) -> None:
    async def scenario(client: Client) -> None:
        client.send(Cancel("a", 1))
        client.shake("a")
        client.shake("b")
        assert await client.grant() == "b"
        client.shake("a", incarnation=2)
        client.shake("c", incarnation=2)
        assert await client.grant() == "c"

    play(tmp_path, scenario)


def test_a_newer_life_of_a_target_starts_with_all_backends_free(tmp_path: Path) -> None:
    async def scenario(client: Client) -> None:
        client.shake("a")
        assert await client.grant() == "a"
        client.shake("b", incarnation=2)
        assert await client.grant() == "b"
        client.shake("c", incarnation=1)  # the old life lends no more
        client.shake("b", incarnation=2)
        assert await client.grant() == "b"
        await client.facts(BrokerFacts(backends=1, lent=1, waiting=0))

    play(tmp_path, scenario)


def test_loans_are_newer_than_all_before_even_after_the_target_came_back(tmp_path: Path) -> None:
    async def scenario(client: Client) -> None:
        client.shake("a")
        first = (await client.whole_grant()).generation
        assert first > 1  # the broker's incarnation
        client.send(Release("a", 1, 0, 0, "d", 1))
        client.shake("b", incarnation=2)
        second = await client.whole_grant()
        assert second.request == "b"
        assert second.generation > first

    play(tmp_path, scenario)


def test_loans_of_a_former_broker_are_taken_over_before_any_other_is_granted(
    tmp_path: Path,
) -> None:
    async def scenario(client: Client) -> None:
        client.shake("a")
        client.shake("b", held=Loan(0, 1))
        assert await client.whole_grant() == Grant("b", 1, 0, 0, 0, 1)
        await client.held({("a", 0), ("b", 1)})
        client.send(Release("b", 1, 0, 0, "d", 1, is_last=True))
        grant = await client.whole_grant()
        assert grant.request == "a"
        assert grant.generation > 1

    play(tmp_path, scenario)


def test_a_lost_life_forgets_its_loans_and_lends_newer_ones(tmp_path: Path) -> None:
    async def scenario(client: Client) -> None:
        client.shake("a")
        before = await client.whole_grant()
        client.send(Refused(1, LOST_MEMBER))
        await client.held(set())
        client.shake("b")
        after = await client.whole_grant()
        assert (after.request, after.backend) == ("b", before.backend)
        assert after.generation > before.generation
        assert client.hello is not None
        assert client.hello.peer.incarnation == 2

    play(tmp_path, scenario)


def test_without_a_router_the_leases_run_out(tmp_path: Path) -> None:
    async def scenario(client: Client) -> None:
        client.shake("a")
        assert await client.grant() == "a"
        await client.held({("a", 1)})
        client.is_router = False
        await client.held(set())
        client.is_router = True
        while client.grants.empty():
            client.shake("b")  # as senders do, until the router is back
            await client.beats.get()
        assert await client.grant() == "b"

    play(tmp_path, scenario, lease=0.2)


class Rig:
    """A broker; also its clock and its mesh."""

    def __init__(self) -> None:
        self.time = 0.0
        self.grants: list[Grant] = []
        log = structlog.make_filtering_bound_logger(50)(None, [], {})
        config = Config(model=ModelConfig(path="/m", name="m"))
        peer = Peer("broker-0", 1, "b")
        self.broker = Broker(Process(config, self, self, Metrics(), log, peer, "node-0"))

    def now(self) -> float:
        return self.time

    def send(self, endpoint: str, message: ControlMessage) -> None:
        assert isinstance(message, Grant)
        self.grants.append(message)

    def shake(self, request: str, chunk: int = 0, held: Loan | None = None) -> None:
        target = Target("d", 1, "d", "tcp://d:2", 1, "b")
        peer = Peer("p", 1, "p")
        self.broker.receive(Handshake(request, 1, chunk, 0, peer, target, 2, 1, held))

    def wait(self, seconds: float) -> None:
        self.time += seconds
        self.broker.tick(0.0)


def test_a_broker_that_gets_a_target_back_lends_newer_than_who_had_it_meanwhile() -> None:
    rig, other = Rig(), Rig()
    for one, request, at in ((rig, "a", 0.0), (other, "b", 20.0), (rig, "c", 40.0)):
        one.time = at
        one.shake(request)
        one.wait(5.0)
        one.broker.receive(Cancel(request, 1))
    first, last = rig.grants
    [between] = other.grants
    assert first.generation < between.generation < last.generation


@pytest.mark.parametrize(
    "end",
    [Cancel("a", 1), EndOfRequest("a", 1, 0, "error"), Release("a", 1, 0, 0, "d", 1, is_last=True)],
)
def test_what_ends_when_the_takeover_is_over_is_lent_nothing(end: ControlMessage) -> None:
    rig = Rig()
    rig.shake("a")
    rig.shake("b")
    rig.time += 5.0  # and no tick before the message
    rig.broker.receive(end)
    rig.wait(0.0)
    assert [grant.request for grant in rig.grants] == ["b"]


def test_a_loan_that_is_announced_when_the_takeover_is_over_is_still_taken_over() -> None:
    rig = Rig()
    rig.shake("a")
    rig.time += 5.0
    rig.shake("b", held=Loan(0, 1))
    rig.wait(0.0)
    assert [grant.request for grant in rig.grants] == ["b"]


def test_faults_can_be_injected_at_every_message(tmp_path: Path) -> None:
    hits = []

    async def scenario(client: Client) -> None:
        for name in ("broker.handshake", "broker.grant", "broker.release"):
            stack.enter_context(failpoints.hooked(name, partial(hits.append, name)))
        client.shake("a")
        await client.grant()
        client.send(Release("a", 1, 0, 0, "d", 1, is_last=True))
        await client.facts(BrokerFacts(backends=1, lent=0, waiting=0))

    with ExitStack() as stack:
        play(tmp_path, scenario)
    assert hits == ["broker.handshake", "broker.grant", "broker.release"]


def test_targets_that_want_nothing_make_room_for_others(tmp_path: Path) -> None:
    async def scenario(client: Client) -> None:
        for number in range(MAX_TARGETS):
            client.shake("a", name=f"d{number}")
        await client.facts(BrokerFacts(backends=MAX_TARGETS, lent=MAX_TARGETS, waiting=0))
        client.send(Release("a", 1, 0, 0, "d7", 1, is_last=True))
        client.shake("b", name="another")
        while await client.grant() != "b":
            pass

    play(tmp_path, scenario)


def test_targets_beyond_the_limit_are_not_served(tmp_path: Path) -> None:
    async def scenario(client: Client) -> None:
        for number in range(MAX_TARGETS + 5):
            client.shake("a", name=f"d{number}")
        await client.facts(BrokerFacts(backends=MAX_TARGETS, lent=MAX_TARGETS, waiting=0))

    play(tmp_path, scenario)
