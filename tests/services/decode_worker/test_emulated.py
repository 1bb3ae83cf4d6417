"""An emulated decode worker in virtual time; the test plays sender, router, broker and gateway."""

import asyncio
import json
import random
from dataclasses import replace

import pytest
import structlog
from msgspec import structs

from common.clock import LoopClock
from common.config import Config, DecodeConfig, MeshConfig, ModelConfig, StepCost
from common.emulated_links import EmulatedLinks
from common.emulated_model import EmulatedModel
from common.latency import Curve, LatencyModel
from common.memory_transport import MemoryNetwork
from common.mesh import Mesh
from common.messages import (
    LOST_MEMBER,
    DecodeStats,
    EndOfRequest,
    Failed,
    Hello,
    KvAck,
    KvLayout,
    Peer,
    Refused,
    Release,
    Sampling,
    TokenBatch,
    Welcome,
)
from common.metrics import Metrics
from common.service import Process
from services.decode_worker.emulated import EmulatedEngine, serve
from services.decode_worker.request import Entry
from tests.services.decode_worker.transfers import GATEWAY, NUM_LAYERS, ROUTER, commit, job, layer
from tests.simulation.virtual_loop import run

LAYOUT = KvLayout(NUM_LAYERS, 2, 8, "bfloat16")
CURVES = LatencyModel({1: Curve(0.5, 0.001, 0.0, 0.0)})
MODEL = EmulatedModel(LAYOUT, CURVES, StepCost(base=0.5, request=0.0, token=0.001))


class World:
    """The worker's surroundings; all of their messages arrive in `notes`."""

    def __init__(self, path, life=7):
        (path / "config.json").write_text(json.dumps({"max_position_embeddings": 64}))
        (path / "model.safetensors").write_bytes(b"")
        network = MemoryNetwork(random.Random(0))
        config = Config(
            model=ModelConfig(path=str(path), name="tiny"),
            mesh=MeshConfig(router=ROUTER),
            decode=DecodeConfig(kv_tokens=64, grow_tokens=16),
        )
        self.links = EmulatedLinks(1e9)
        self.acks = []
        self.notes = []
        names = (ROUTER, GATEWAY.inbox, "mem://broker", "decode")
        clock = LoopClock()
        self.meshes = [Mesh(network.bind(at), config.mesh, Metrics(), clock) for at in names]
        log = structlog.make_filtering_bound_logger(50)(None, [], {})
        peer = Peer("decode-0", life, "decode")
        self.process = Process(config, self.meshes[3], clock, Metrics(), log, peer, "here")

    async def note(self, mesh):
        while True:
            message, _ = await mesh.receive()
            self.notes.append((asyncio.get_running_loop().time(), message))
            if isinstance(message, Hello):
                mesh.send("decode", Welcome(1, message.peer.incarnation))

    def of(self, kind):
        return [message for _, message in self.notes if isinstance(message, kind)]

    def give(self, *messages):
        for message in messages:
            [hello] = self.of(Hello)
            self.links.send("kv", hello.link, structs.replace(message, reply="kv"))


async def live(world, scenario):
    async with asyncio.TaskGroup() as group:
        runs = [mesh.run() for mesh in world.meshes]
        runs += [world.note(mesh) for mesh in world.meshes[:3]]
        runs.append(serve(world.process, MODEL, world.links))
        tasks = [group.create_task(run) for run in runs]
        with world.links.bound("kv", world.acks.append):
            await asyncio.sleep(1.0)
            await scenario(world)
        for task in tasks:
            task.cancel()
    return world


def play(path, scenario):
    async def main():
        return await live(World(path), scenario)

    return run(main())


def test_kv_comes_in_is_acknowledged_and_becomes_the_models_tokens(tmp_path):
    async def scenario(world):
        world.give(layer(0), layer(1), commit(job=job(max_tokens=4)))
        await asyncio.sleep(10.0)

    world = play(tmp_path, scenario)
    assert world.acks == [KvAck("a", 1, 0, 0, number, 1) for number in (0, 1, 2)]
    tokens = [token.id for batch in world.of(TokenBatch) for token in batch.tokens]
    assert tokens == [5, *(MODEL.sample(Sampling(), position).id for position in (21, 22, 23))]
    [release] = world.of(Release)
    assert release.is_last
    assert set(world.of(EndOfRequest)) == {EndOfRequest("a", 1, 4, "length", "decode")}
    assert world.of(DecodeStats)[-1].facts.free_slots == 64


def test_a_step_takes_its_time(tmp_path):
    async def scenario(world):
        world.give(layer(0), layer(1), commit(job=job(max_tokens=3)))
        await asyncio.sleep(10.0)

    world = play(tmp_path, scenario)
    first, second = (at for at, message in world.notes if isinstance(message, TokenBatch))
    assert second - first == pytest.approx(0.5 + 0.001 * 22, abs=0.003)


def test_repeated_kv_changes_nothing_and_is_acknowledged_again(tmp_path):
    async def scenario(world):
        done = commit(job=job(max_tokens=2))
        world.give(layer(0), layer(0), layer(1), done, done)
        await asyncio.sleep(10.0)

    world = play(tmp_path, scenario)
    assert [ack.layer for ack in world.acks] == [0, 0, 1, 2, 2]
    assert len(world.of(Release)) == 2
    assert len(world.of(TokenBatch)) == 1


def test_stale_kv_is_not_acknowledged(tmp_path):
    async def scenario(world):
        world.give(structs.replace(layer(0), generation=2), layer(1))
        await asyncio.sleep(1.0)

    assert [ack.layer for ack in play(tmp_path, scenario).acks] == [0]


def test_a_request_without_room_is_not_acknowledged_and_fails(tmp_path):
    async def scenario(world):
        world.give(layer(0, reserve=100))
        await asyncio.sleep(0.2)

    world = play(tmp_path, scenario)
    [failed] = world.of(Failed)
    assert failed.retryable and failed.evicted
    assert world.acks == []


def test_a_lost_life_joins_again_and_serves_over_the_same_link(tmp_path):
    async def scenario(world):
        world.give(layer(0), layer(1), commit(job=job(max_tokens=40)))
        await asyncio.sleep(1.0)
        num_before = len(world.of(TokenBatch))
        world.meshes[0].send("decode", Refused(7, LOST_MEMBER))
        await asyncio.sleep(2.0)
        assert len(world.of(TokenBatch)) == num_before
        [old, new] = {hello.peer.incarnation: hello for hello in world.of(Hello)}.values()
        assert (new.peer.incarnation, new.link) == (8, old.link)
        for message in (layer(0, "b"), layer(1, "b"), commit("b", job=job("b", max_tokens=2))):
            world.links.send("kv", new.link, structs.replace(message, reply="kv"))
        await asyncio.sleep(2.0)
        assert [t.request for t in world.of(TokenBatch)[-1].tokens] == ["b", "b"]
        assert world.of(TokenBatch)[-1].decode.incarnation == 8

    play(tmp_path, scenario)


def test_a_worker_may_be_started_again_in_the_same_process(tmp_path):
    async def scenario(world):
        world.give(layer(0), layer(1), commit(job=job(max_tokens=2)))
        await asyncio.sleep(2.0)
        assert len(world.of(TokenBatch)) == 1

    async def main():
        for life in (7, 8):
            world = World(tmp_path, life)
            await live(world, scenario)

    run(main())


def test_the_engine_draws_what_is_not_forbidden():
    async def main():
        engine = EmulatedEngine(MODEL, LoopClock())
        token = MODEL.sample(Sampling(), 3).id
        free = Entry(1, 2, [], Sampling())
        batch = [free, replace(free, forbidden=frozenset({token}))]
        return token, [drawn.id for drawn in await engine.step(batch)]

    token, drawn = run(main())
    assert drawn == [token, token + 1]
