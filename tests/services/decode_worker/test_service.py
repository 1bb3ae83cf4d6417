"""A whole decode worker with a tiny model: KV over a real link, control in memory."""

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import msgspec
import pytest
import structlog
import torch

from common.clock import MonotonicClock
from common.config import Config, DecodeConfig, MeshConfig, ModelConfig
from common.errors import ConfigError
from common.links.zmq import ZmqLink
from common.memory_transport import MemoryNetwork
from common.mesh import Mesh
from common.messages import (
    Admitted,
    Alternative,
    Cancel,
    DecodeFacts,
    DecodeStats,
    EndOfRequest,
    Failed,
    Hello,
    KvAck,
    Peer,
    Refused,
    Release,
    Token,
    TokenBatch,
    Welcome,
)
from common.metrics import Metrics
from common.service import Process
from common.tensor.kv_cache import pack
from common.wire import CONTROL
from services.decode_worker.service import serve
from services.decode_worker.worker import MAX_BATCH
from tests.common.tensor.tiny_models import save, stock
from tests.services.decode_worker.transfers import GATEWAY, ROUTER, commit, job, layer

SECONDS = 60
REPEAT = 5.0
LAYERS = 3
PROMPT = [5, 17, 40, 3, 99, 23, 64, 8, 11, 12, 13, 14, 90, 71, 2, 6, 33, 21, 18, 44]


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return save(tmp_path_factory.mktemp("model"), eos_token_id=None)


@pytest.fixture(scope="module")
def causal(path):
    return stock(path)


class World:
    """A worker, and the router, gateway, broker and prefill worker that it talks to."""

    def __init__(self, path, link, **decode):
        network = MemoryNetwork(random.Random(0))
        self.config = Config(
            model=ModelConfig(path=path, name="tiny"),
            mesh=MeshConfig(router=ROUTER),
            decode=DecodeConfig(**{"kv_tokens": 128, "grow_tokens": 16, **decode}),
        )
        self.link = link
        names = {"router": ROUTER, "gateway": GATEWAY.inbox, "broker": "mem://broker"}
        self.peers = {
            name: Mesh(network.bind(at), self.config.mesh, Metrics(), MonotonicClock())
            for name, at in names.items()
        }
        self.mesh = Mesh(network.bind("decode"), self.config.mesh, Metrics(), MonotonicClock())
        self.process = Process(
            config=self.config,
            mesh=self.mesh,
            clock=MonotonicClock(),
            metrics=Metrics(),
            log=structlog.get_logger(),
            peer=Peer("decode-0", 7, "decode"),
            node="here",
        )
        self.hello = None

    async def take(self, peer, kind):
        """The next message of a kind at a peer."""
        while True:
            message, _ = await self.peers[peer].receive()
            if isinstance(message, kind):
                return message

    async def join(self):
        self.hello = await self.take("router", Hello)
        self.say(Welcome(epoch=1, incarnation=7))

    def say(self, message):
        self.peers["router"].send("decode", message)

    async def send_kv(self, causal, ids, request="a", **changes):
        """All layers of a prompt as one transfer, then its commit; waits for all of its acks."""
        with torch.inference_mode():
            out = causal(torch.tensor([ids]), use_cache=True)
        first = int(out.logits[0, -1].argmax())
        reserve = changes.pop("reserve", len(ids) + 8)
        length = {"prompt_length": len(ids), "reserve": reserve}
        for number, kv in enumerate(out.past_key_values.layers):
            message = layer(number, request, intervals=((0, len(ids)),), **length)
            frames = [pack(x[0].transpose(0, 1).contiguous()) for x in (kv.keys, kv.values)]
            await self._post(message, *frames)
        made = job(request, first=first, **changes)
        await self._post(commit(request, prompt_length=len(ids), num_layers=LAYERS, job=made))
        return first

    async def _post(self, message, *frames):
        message = msgspec.structs.replace(message, reply=self.link.endpoint)
        answer = None
        while answer is None:  # as a sender does, until there is room
            self.link.send(self.hello.link, message, *frames)
            answer = await asyncio.to_thread(self.link.receive, REPEAT)
        assert isinstance(answer[0], KvAck)


@asynccontextmanager
async def running(path, **decode) -> AsyncIterator[World]:
    link = ZmqLink("tcp://127.0.0.1:*")
    world = World(path, link, **decode)
    meshes = [world.mesh, *world.peers.values()]
    try:
        async with asyncio.timeout(SECONDS), asyncio.TaskGroup() as group:
            tasks = [group.create_task(mesh.run()) for mesh in meshes]
            tasks.append(group.create_task(serve(world.process)))
            await world.join()
            yield world
            for task in reversed(tasks):
                task.cancel()
    finally:
        link.close()
        for mesh in meshes:
            await mesh.close()


def continued(causal, ids, length):
    """Greedy tokens after `ids` by whole forwards of the stock model."""
    tokens = list(ids)
    with torch.inference_mode():
        for _ in range(length):
            tokens.append(int(causal(torch.tensor([tokens])).logits[0, -1].argmax()))
    return tokens[len(ids) :]


async def collect(world, requests):
    """Tokens of each request until all of them are finished."""
    tokens = {request: [] for request in requests}
    open_requests = set(requests)
    while open_requests:
        for token in (await world.take("gateway", TokenBatch)).tokens:
            assert token.index == len(tokens[token.request])
            tokens[token.request].append(token.id)
            if token.finish is not None:
                open_requests.remove(token.request)
    return tokens


def test_a_worker_says_what_it_is(path):
    async def main():
        async with running(path, backends=3) as world:
            hello = world.hello
            assert (hello.role, hello.total_slots, hello.num_backends) == ("decode-worker", 128, 3)
            assert (hello.layout.num_layers, hello.model.max_model_len) == (LAYERS, 256)

    asyncio.run(main())


def test_requests_get_the_tokens_of_transformers_and_everybody_hears_of_it(path, causal):
    async def main():
        async with running(path) as world:
            await world.send_kv(causal, PROMPT, "a", max_tokens=20)
            release = await world.take("broker", Release)
            assert (release.request, release.target, release.incarnation) == ("a", "decode-0", 7)
            admitted = await world.take("router", Admitted)
            assert (admitted.request, admitted.name, admitted.slots) == ("a", "decode-0", 32)
            await world.send_kv(causal, PROMPT[:7], "b", max_tokens=12)
            tokens = await collect(world, ["a", "b"])
            ends = {}
            while len(ends) < 2:  # each is repeated until it is answered
                end = await world.take("router", EndOfRequest)
                ends.setdefault(end.request, end)
                world.say(EndOfRequest(end.request, 1, 0, "length"))
            assert {(e.request, e.num_tokens, e.reason) for e in ends.values()} == {
                ("a", 20, "length"),
                ("b", 12, "length"),
            }
            while (facts := (await world.take("router", DecodeStats)).facts).active:
                pass
            assert facts == DecodeFacts(128, 128, active=0, steps=facts.steps)
            # the first token of each came with its KV
            assert b"tetris_decode_tokens_total 30.0" in world.process.metrics.render()
            return tokens

    tokens = asyncio.run(main())
    assert tokens == {
        "a": continued(causal, PROMPT, 20),
        "b": continued(causal, PROMPT[:7], 12),
    }


def test_a_cancelled_request_frees_its_slots_and_another_takes_them(path, causal):
    async def main():
        async with running(path, kv_tokens=128) as world:
            await world.send_kv(causal, PROMPT, "a", reserve=128, max_tokens=90)
            await world.take("gateway", TokenBatch)
            world.say(Cancel("a", 1))
            assert (await world.take("router", DecodeStats)).facts.free_slots == 128
            await world.send_kv(causal, PROMPT, "b", reserve=112, max_tokens=2)
            while True:
                batch = await world.take("gateway", TokenBatch)
                if batch.tokens[-1].request == "b":
                    return [token.id for token in batch.tokens]

    assert asyncio.run(main()) == continued(causal, PROMPT, 2)


def test_a_request_that_finds_no_room_fails_with_the_reason(path, causal):
    async def main():
        async with running(path, kv_tokens=32) as world:
            await world.send_kv(causal, PROMPT, "a", reserve=33, max_tokens=13)
            failed = await world.take("router", Failed)
            assert failed.evicted and failed.retryable and "33 tokens need 3 pages" in failed.why
            world.say(EndOfRequest("a", 1, 0, "error"))
            await world.send_kv(causal, PROMPT, "b", reserve=32, max_tokens=50)
            assert len((await world.take("gateway", TokenBatch)).tokens) == 2
            while (failed := await world.take("router", Failed)).request == "a":
                pass
            assert failed.request == "b" and not failed.retryable
            assert failed.sender == "decode"


def test_kv_without_room_is_taken_when_the_youngest_has_made_some(path, causal):
    async def main():
        async with running(path, kv_tokens=128) as world:
            await world.send_kv(causal, PROMPT, "a", reserve=112, max_tokens=90)
            await world.take("gateway", TokenBatch)
            await world.send_kv(causal, PROMPT, "b", reserve=32, max_tokens=8)
            failed = await world.take("router", Failed)
            assert (failed.request, failed.evicted) == ("a", True)
            while True:
                batch = await world.take("gateway", TokenBatch)
                if batch.tokens[-1].request == "b":
                    break
            tokens = [token.id for token in batch.tokens]
            while len(tokens) < 8:
                tokens += [t.id for t in (await world.take("gateway", TokenBatch)).tokens]
            return tokens

    assert asyncio.run(main()) == continued(causal, PROMPT, 8)

    asyncio.run(main())


def test_a_refused_worker_ends_with_the_reason(path):
    async def main():
        async with running(path) as world:
            world.say(Refused(7, "another model"))
            world.say(Refused(7, "another model"))
            await asyncio.Event().wait()

    with pytest.raises(ExceptionGroup) as raised:
        asyncio.run(main())
    wrong = raised.value.subgroup(ConfigError)
    while isinstance(wrong, ExceptionGroup):
        [wrong] = wrong.exceptions
    assert "another model" in str(wrong)


def test_the_largest_step_is_one_message_that_every_gateway_takes():
    name = "x" * 128
    top = (Alternative(2**31 - 1, -1.0),) * 20
    token = Token(name, 10**6, 2**31 - 1, 2**31 - 1, -1.0, top, "length")
    batch = TokenBatch(Peer("y" * 64, 2**63 - 1, "z" * 256), (token,) * (2 * MAX_BATCH))
    assert CONTROL.decode(CONTROL.encode(batch))[0] == batch
