"""A worker whose engine draws what the test says, with a mesh that only notes."""

import asyncio

import structlog

from common.clock import LoopClock
from common.config import Config, DecodeConfig, ModelConfig
from common.generation import Sampled
from common.messages import (
    Admitted,
    DecodeStats,
    EndOfRequest,
    Failed,
    Peer,
    Release,
    TokenBatch,
    Welcome,
)
from common.metrics import Metrics
from common.service import Process
from services.decode_worker.slots import Slots
from services.decode_worker.worker import Intake, Worker
from tests.services.decode_worker.transfers import commit, job, layer
from tests.simulation.virtual_loop import run


class Rig:
    """Mesh and engine of the worker: steps take a second and draw the tokens 1, 2, 3 …"""

    def __init__(self, num_pages=8):
        self.sent = []
        self.steps = []
        self.draws_nothing = False
        config = Config(model=ModelConfig(path="/m", name="m"), decode=DecodeConfig(grow_tokens=16))
        log = structlog.make_filtering_bound_logger(50)(None, [], {})
        peer = Peer("decode-0", 7, "d")
        self.metrics = Metrics()
        process = Process(config, self, LoopClock(), self.metrics, log, peer, "node")
        self.slots = Slots(num_pages)
        self.worker = Worker(process, self.slots, ())
        self.intake = Intake(self.worker, self.slots, asyncio.get_running_loop().call_soon)

    def send(self, endpoint, message):
        self.sent.append((endpoint, message))

    async def step(self, batch):
        self.steps.append(len(batch))
        await asyncio.sleep(1.0)
        return [None if self.draws_nothing else Sampled(len(self.steps)) for _ in batch]

    def take(self, request="a", **ending):
        for number in (0, 1):
            assert self.intake.open(layer(number, request)) is not None
            self.slots.copied()
        self.intake.commit(commit(request, job=job(request, **ending)))

    def of(self, kind):
        return [message for _, message in self.sent if isinstance(message, kind)]

    def tokens(self, request="a"):
        tokens = [token for batch in self.of(TokenBatch) for token in batch.tokens]
        return [token.id for token in tokens if token.request == request]


def play(scenario, **rig):
    async def main():
        world = Rig(**rig)
        async with asyncio.TaskGroup() as group:
            decoding = group.create_task(world.worker.decode(world))
            await scenario(world)
            decoding.cancel()
        return world

    return run(main())


def test_a_request_is_admitted_decoded_and_ended():
    async def scenario(rig):
        rig.take(max_tokens=4)
        await asyncio.sleep(10.0)

    rig = play(scenario)
    assert rig.tokens() == [5, 1, 2, 3]
    assert rig.of(Release) == [Release("a", 1, 0, 0, "decode-0", 7)]
    assert rig.of(Admitted) == [Admitted("decode-0", 7, "a", 1, 32)]
    assert rig.of(EndOfRequest) == [EndOfRequest("a", 1, 4, "length")]
    assert rig.of(DecodeStats)[-1].facts.free_slots == 8 * 16


def test_a_request_that_comes_during_a_step_joins_the_next_one():
    async def scenario(rig):
        rig.take("a", max_tokens=4)
        await asyncio.sleep(0.5)
        rig.take("b", max_tokens=2)
        await asyncio.sleep(10.0)

    rig = play(scenario)
    assert rig.steps == [1, 2, 1]
    assert rig.tokens("b") == [5, 2]


def test_what_ends_during_a_step_is_not_told_and_its_slots_come_back_after_it():
    async def scenario(rig):
        rig.take()
        await asyncio.sleep(0.5)
        rig.worker.receive(EndOfRequest("a", 1, 0, "abort"))
        assert rig.slots.totals()[1] < 8 * 16
        await asyncio.sleep(10.0)

    rig = play(scenario)
    assert rig.of(TokenBatch) == []
    assert rig.steps == [1]
    assert rig.of(DecodeStats)[-1].facts.free_slots == 8 * 16


def test_a_request_of_which_nothing_can_be_drawn_fails_for_good():
    async def scenario(rig):
        rig.draws_nothing = True
        rig.take()
        await asyncio.sleep(10.0)

    [failed] = play(scenario).of(Failed)
    assert not failed.retryable


def test_a_request_that_outgrows_the_pool_may_be_tried_again():
    async def scenario(rig):
        rig.take(max_tokens=100)
        await asyncio.sleep(30.0)

    rig = play(scenario, num_pages=2)
    [failed] = rig.of(Failed)
    assert failed.retryable
    assert len(rig.tokens()) == 32 - 20 + 1


def test_kv_without_room_fails_its_request():
    async def scenario(rig):
        assert rig.intake.open(layer(0)) is None
        await asyncio.sleep(1.0)

    [failed] = play(scenario, num_pages=1).of(Failed)
    assert failed.retryable


def test_messages_that_are_not_for_decode_are_counted():
    async def scenario(rig):
        rig.worker.receive(Welcome(1, 7))

    rig = play(scenario)
    assert rig.sent == []
    assert b'tetris_messages_dropped_total{reason="unexpected"} 1.0' in rig.metrics.render()
