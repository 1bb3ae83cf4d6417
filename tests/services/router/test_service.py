import asyncio
import random
from array import array

import structlog

from common.clock import LoopClock
from common.config import Config, ModelConfig, RouterConfig
from common.memory_transport import MemoryNetwork
from common.mesh import Mesh
from common.messages import (
    LOST_MEMBER,
    PROTOCOL,
    Accepted,
    Ending,
    Hello,
    KvLayout,
    ModelCard,
    Peer,
    Refused,
    RunChunk,
    Sampling,
    Submit,
    Welcome,
)
from common.metrics import Metrics
from common.service import Process
from services.router.service import serve
from tests.simulation import virtual_loop

CONFIG = Config(
    model=ModelConfig(path="", name="m"),
    router=RouterConfig(latency="a100-llama3-8b", calibrate_seconds=0),
)
LAYOUT = KvLayout(1, 1, 64, "float32")


class Node:
    """One process of the mesh, with everything it has received."""

    def __init__(self, network, name):
        self.peer = Peer(name, 1, f"inproc://{name}")
        self.metrics = Metrics()
        transport = network.bind(self.peer.inbox)
        self.mesh = Mesh(transport, CONFIG.mesh, self.metrics, LoopClock())

    def hello(self, role, **fields):
        model = ModelCard("m", "abc", 1000)
        message = Hello(role, self.peer, "node", PROTOCOL, model, **fields)
        self.mesh.send("inproc://router", message)

    async def first(self, kind):
        while True:
            message, frames = await self.mesh.receive()
            if isinstance(message, kind):
                return message, frames


async def request_through_the_mesh():
    network = MemoryNetwork(random.Random(1))
    names = ("router", "p", "d", "b", "g")
    nodes = {name: Node(network, name) for name in names}
    router = nodes["router"]
    process = Process(
        CONFIG, router.mesh, LoopClock(), router.metrics, structlog.get_logger(), router.peer, "n"
    )
    async with asyncio.timeout(10), asyncio.TaskGroup() as group:
        tasks = [group.create_task(node.mesh.run()) for node in nodes.values()]
        tasks.append(group.create_task(serve(process)))
        slots = {"layout": LAYOUT, "total_slots": 2048}
        nodes["b"].hello("kv-transfer")
        await nodes["b"].first(Welcome)
        nodes["p"].hello("prefill-worker", ring="r", balance="x", **slots)
        nodes["d"].hello("decode-worker", link="l", num_backends=1, **slots)
        nodes["g"].hello("gateway")
        welcomes = [(await nodes[name].first(Welcome))[0] for name in ("p", "d", "g")]
        ids = array("i", range(100)).tobytes()
        gateway = nodes["g"]
        submit = Submit("r", 1, gateway.peer, 100, 0, Sampling(), Ending(5))
        gateway.mesh.send("inproc://router", submit, ids)
        accepted, _ = await gateway.first(Accepted)
        run, frames = await nodes["p"].first(RunChunk)
        for task in tasks:
            task.cancel()
    for node in nodes.values():
        await node.mesh.close()
    return welcomes, accepted, run, bytes(frames[0]) == ids, router.metrics.render()


def test_a_submitted_prompt_becomes_a_chunk_on_a_worker():
    welcomes, accepted, run, same_ids, figures = asyncio.run(request_through_the_mesh())
    assert [welcome.broker for welcome in welcomes] == [None, "inproc://b", None]
    assert accepted.request == "r"
    assert (run.request, run.chunks[0].length, same_ids) == ("r", 100, True)
    assert b"tetris_router_requests 1.0" in figures


async def silent_member():
    network = MemoryNetwork(random.Random(1))
    nodes = [Node(network, "router"), Node(network, "b")]
    router, broker = nodes
    process = Process(
        CONFIG, router.mesh, LoopClock(), router.metrics, structlog.get_logger(), router.peer, "n"
    )
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(node.mesh.run()) for node in nodes]
        tasks.append(group.create_task(serve(process)))
        broker.hello("kv-transfer")
        await broker.first(Welcome)
        await asyncio.sleep(CONFIG.mesh.dead_after + CONFIG.mesh.heartbeat)
        broker.hello("kv-transfer")
        refused, _ = await broker.first(Refused)
        for task in tasks:
            task.cancel()
    for node in nodes:
        await node.mesh.close()
    return refused


def test_time_alone_loses_a_member_that_says_nothing():
    assert virtual_loop.run(silent_member()).reason == LOST_MEMBER
