import asyncio
import json
import random

import structlog
from msgspec import structs

from common.clock import LoopClock
from common.config import Config, MeshConfig, ModelConfig
from common.memory_transport import MemoryNetwork
from common.mesh import Mesh
from common.messages import (
    LOST_MEMBER,
    Brokerage,
    EndOfRequest,
    Failed,
    Handshake,
    Heartbeat,
    Hello,
    KvLayout,
    Peer,
    PrefillFacts,
    Refused,
    Released,
    Welcome,
)
from common.metrics import Metrics
from common.pages import Owner
from common.service import Process
from services.prefill_worker.control import control
from services.prefill_worker.hands import Slots
from services.prefill_worker.instance import Instance
from services.prefill_worker.send_manager import SendManager
from tests.services.prefill_worker.plans import TARGET, plan, run_chunk
from tests.simulation.virtual_loop import run

LAYOUT = KvLayout(1, 2, 4, "float32")


class Idle:
    """Hands that take everything and never finish."""

    def __init__(self):
        self.started = []
        self.aborted = []

    def start(self, work, instance):
        self.started.append(work.run)

    def abort(self, owner):
        self.aborted.append(owner)

    def release(self, owner):
        pass

    def slots(self):
        return Slots(64, 48, ())


class World:
    def __init__(self, path):
        (path / "config.json").write_text(json.dumps({"max_position_embeddings": 64}))
        (path / "model.safetensors").write_bytes(b"")
        network, clock = MemoryNetwork(random.Random(0)), LoopClock()
        config = Config(
            model=ModelConfig(path=str(path), name="m"), mesh=MeshConfig(router="router")
        )
        meshes = [Mesh(network.bind(at), config.mesh, Metrics(), clock) for at in ("router", "p")]
        self.router, self.mesh = meshes
        log = structlog.make_filtering_bound_logger(50)(None, [], {})
        peer = Peer("m0", 1, "p")
        self.process = Process(config, self.mesh, clock, Metrics(), log, peer, "node-0")
        self.hands, self.notes = Idle(), []
        sends = SendManager("kv", LAYOUT, config)
        self.instance = Instance(self.process, sends, self.hands)

    async def note(self):
        while True:
            message, _ = await self.router.receive()
            self.notes.append(message)

    def of(self, kind):
        return [message for message in self.notes if isinstance(message, kind)]


def play(path, scenario):
    async def main():
        world = World(path)
        serving = control(world.process, world.instance, LAYOUT, "ring", "balance")
        async with asyncio.TaskGroup() as group:
            runs = (world.router.run(), world.mesh.run(), world.note(), serving)
            tasks = [group.create_task(run) for run in runs]
            await asyncio.sleep(0.1)
            await scenario(world)
            for task in tasks:
                task.cancel()

    run(main())


def test_it_says_what_it_is_and_beats_once_welcome(tmp_path):
    async def scenario(world):
        [hello] = world.of(Hello)
        assert (hello.role, hello.layout, hello.total_slots) == ("prefill-worker", LAYOUT, 64)
        assert (hello.ring, hello.balance, hello.peer.incarnation) == ("ring", "balance", 1)
        assert world.of(Heartbeat) == []
        world.router.send("p", Welcome(1, 1))
        await asyncio.sleep(1.2)
        assert [beat.facts for beat in world.of(Heartbeat)] == [PrefillFacts(1, 0, 0, 64, 48)] * 3

    play(tmp_path, scenario)


def test_messages_reach_the_instance_and_its_handshakes_are_repeated(tmp_path):
    async def scenario(world):
        target = structs.replace(TARGET, broker="router")
        message = run_chunk(plan((8, 1)), 0, 0, target=target, router="router")
        world.router.send("p", message, bytes(32))
        await asyncio.sleep(2.0)
        assert world.hands.started == [message]
        assert len(world.of(Handshake)) >= 3

    play(tmp_path, scenario)


def test_a_welcome_of_a_new_router_voids_what_has_not_run(tmp_path):
    async def scenario(world):
        waiting = run_chunk(plan((8, 1)), 0, 0, turn=2, router="router")
        world.router.send("p", waiting, bytes(32))
        world.router.send("p", Welcome(2, 1))
        await asyncio.sleep(1.0)
        assert world.of(Released) == [Released("m0", 1, "r", 1)]
        assert world.hands.started == []
        world.router.send("p", EndOfRequest("r", 1, 0, "abort"))
        await asyncio.sleep(1.0)
        assert len(world.of(Released)) == 1

    play(tmp_path, scenario)


def test_brokers_that_the_router_names_are_asked(tmp_path):
    async def scenario(world):
        broker = Brokerage(TARGET.name, TARGET.incarnation, "router")
        world.router.send("p", Welcome(1, 1, brokers=(broker,)))
        world.router.send("p", run_chunk(plan((8, 1)), 0, 0, router="router"), bytes(32))
        await asyncio.sleep(0.4)
        [handshake] = world.of(Handshake)
        assert handshake.target.broker == "router"
        world.router.send("p", Welcome(1, 7, brokers=()))  # to another life

    play(tmp_path, scenario)


def test_without_a_router_leases_come_to_their_end(tmp_path):
    async def scenario(world):
        world.router.send("p", Welcome(1, 1))
        for turn, name in ((1, "running"), (2, "waiting")):
            run = run_chunk(plan((8, 1)), 0, 0, turn=turn, request=name, router="router")
            world.router.send("p", run, bytes(32))
        await asyncio.sleep(59.0)
        assert world.of(Released) == []
        await asyncio.sleep(2.0)
        assert world.hands.aborted == [Owner("running", 1)]
        assert world.of(Released) == [Released("m0", 1, "waiting", 1)]
        assert {failed.request for failed in world.of(Failed)} == {"running", "waiting"}

    play(tmp_path, scenario)


def test_a_life_that_counts_as_lost_joins_as_the_next_one(tmp_path):
    async def scenario(world):
        world.router.send("p", Welcome(1, 1))
        world.router.send("p", run_chunk(plan((8, 1)), 0, 0, router="router"), bytes(32))
        await asyncio.sleep(1.0)
        world.router.send("p", Refused(1, LOST_MEMBER))
        await asyncio.sleep(0.1)
        assert world.of(Hello)[-1].peer.incarnation == 2
        assert world.hands.aborted == [Owner("r", 1)]
        world.notes.clear()
        world.router.send("p", Welcome(1, 2))
        await asyncio.sleep(1.0)
        assert {type(note) for note in world.notes} == {Heartbeat}
        assert world.notes[-1].facts.received_through == 0

    play(tmp_path, scenario)
