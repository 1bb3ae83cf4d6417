"""A worker whose engine draws what the test says, with a mesh that only notes."""

import asyncio
from contextlib import ExitStack

import pytest
import structlog

from common import failpoints
from common.clock import LoopClock
from common.config import Config, DecodeConfig, ModelConfig
from common.errors import OutOfPages
from common.generation import Sampled
from common.messages import (
    Admitted,
    Cancel,
    DecodeStats,
    EndOfRequest,
    Failed,
    Held,
    Joining,
    Peer,
    Release,
    Resend,
    TokenBatch,
    Welcome,
)
from common.metrics import Metrics
from common.service import Process
from services.decode_worker.intake import Intake
from services.decode_worker.slots import Slots
from services.decode_worker.worker import MAX_BATCH, Worker
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
        clock = LoopClock()
        self.process = Process(config, self, clock, self.metrics, log, peer, "node")
        self.slots = Slots(num_pages)
        self.worker = Worker(self.process, self.slots, ())
        self.intake = Intake(self.worker, self.slots, clock, asyncio.get_running_loop().call_soon)

    def send(self, endpoint, message):
        self.sent.append((endpoint, message))

    async def step(self, batch):
        self.steps.append(len(batch))
        await asyncio.sleep(1.0)
        return [None if self.draws_nothing else Sampled(len(self.steps)) for _ in batch]

    def take(self, request="a", index=0, **ending):
        self.layers(request)
        self.intake.commit(commit(request, job=job(request, index=index, **ending)))

    def layers(self, request="a"):
        for number in (0, 1):
            assert self.intake.open(layer(number, request)) is not None
            self.slots.copied()

    def ask(self, index=0, request="a", attempt=1):
        """What a gateway gets when it misses tokens."""
        before = len(self.sent)
        self.worker.receive(Resend(request, attempt, index, Peer("g", 1, "mem://asks")))
        assert all(endpoint == "mem://asks" for endpoint, _ in self.sent[before:])
        return [message for _, message in self.sent[before:]]

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
    assert rig.of(Release) == [Release("a", 1, 0, 0, "decode-0", 7, is_last=True)]
    assert rig.of(Admitted) == [Admitted("decode-0", 7, "a", 1, 32)]
    assert rig.of(EndOfRequest) == [EndOfRequest("a", 1, 4, "length", "d")]
    assert rig.of(DecodeStats)[-1].facts.free_slots == 8 * 16


def test_the_first_tokens_of_a_request_come_with_the_moments_of_its_joining():
    async def scenario(rig):
        await asyncio.sleep(2.0)
        rig.take("a", max_tokens=4)
        await asyncio.sleep(0.25)  # a step of a second is under way
        rig.take("b", max_tokens=3)
        await asyncio.sleep(10.0)

    joined = [batch.joined for batch in play(scenario).of(TokenBatch)]
    assert joined == [
        (Joining("a", 1, committed=2.0, begun=2.0),),
        (Joining("b", 1, committed=2.25, begun=3.0),),
        (),
    ]


def test_releases_are_repeated_as_long_as_more_is_to_come():
    async def scenario(rig):
        rig.layers("a")
        rig.intake.commit(commit("a", num_transfers=2))
        await asyncio.sleep(0.0)
        for _ in range(4):  # two heartbeats, and as many ticks between them
            rig.worker.tick(0.0)
            await asyncio.sleep(rig.process.config.mesh.heartbeat / 2)
        one = Release("a", 1, 0, 0, "decode-0", 7, is_last=False)
        assert rig.of(Release) == [one] * 3
        for number in (0, 1):
            rig.intake.open(layer(number, "a", rank=1))
            rig.slots.copied()
        rig.intake.commit(commit("a", rank=1, num_transfers=2, job=job("a")))
        await asyncio.sleep(0.0)
        rig.sent.clear()
        await asyncio.sleep(9.0)
        rig.worker.tick(0.0)
        assert rig.of(Release) == []

    play(scenario)


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


def test_a_request_that_outgrows_the_whole_pool_fails_with_what_to_do():
    async def scenario(rig):
        rig.take(max_tokens=100)
        await asyncio.sleep(30.0)

    rig = play(scenario, num_pages=2)
    [failed] = rig.of(Failed)
    assert not failed.retryable and "raise decode.kv_tokens" in failed.why
    assert len(rig.tokens()) == 32 - 20 + 1


def test_kv_without_room_fails_its_request_when_nobody_can_make_some():
    async def scenario(rig):
        with pytest.raises(OutOfPages):
            rig.intake.open(layer(0))
        await asyncio.sleep(1.0)

    rig = play(scenario, num_pages=1)
    [failed] = rig.of(Failed)
    assert failed.retryable and failed.evicted and failed.sender == "d"
    assert b"tetris_decode_evictions_total 1.0" in rig.metrics.render()


def test_kv_without_room_finds_some_when_it_comes_again_after_the_step():
    async def scenario(rig):
        rig.take("a", max_tokens=50)
        await asyncio.sleep(0.5)
        with pytest.raises(OutOfPages):
            rig.intake.open(layer(0, "b"))
        await asyncio.sleep(0.1)
        assert rig.of(Failed) == []
        await asyncio.sleep(0.5)
        rig.take("b", max_tokens=2)
        await asyncio.sleep(2.0)

    rig = play(scenario, num_pages=3)
    assert {(failed.request, failed.evicted) for failed in rig.of(Failed)} == {("a", True)}
    assert len(rig.tokens("b")) == 2


@pytest.mark.parametrize("answer", [EndOfRequest("a", 1, 4, "length"), Cancel("a", 1)])
def test_an_end_is_repeated_until_the_router_has_answered(answer):
    async def scenario(rig):
        rig.take(max_tokens=2)
        await asyncio.sleep(1.1)
        assert len(rig.of(EndOfRequest)) == 1
        rig.worker.tick(0.0)
        assert len(rig.of(EndOfRequest)) == 1
        for _ in range(2):
            await asyncio.sleep(0.5)
            rig.worker.tick(0.0)
        assert rig.of(EndOfRequest) == [EndOfRequest("a", 1, 2, "length", "d")] * 3
        rig.worker.receive(answer)
        await asyncio.sleep(0.5)
        rig.worker.tick(0.0)
        assert len(rig.of(EndOfRequest)) == 3

    play(scenario)


def test_tokens_come_again_for_who_asks_and_the_unknown_is_a_failure():
    async def scenario(rig):
        rig.layers()
        assert rig.ask() == []
        rig.intake.commit(commit(job=job(index=3, max_tokens=5)))
        await asyncio.sleep(2.5)
        [batch] = rig.ask(4)
        assert [(token.index, token.id) for token in batch.tokens] == [(4, 1), (5, 2)]
        assert batch.decode == rig.process.peer
        assert rig.ask(6) == []
        await asyncio.sleep(5.0)
        assert [token.index for token in rig.ask(3)[0].tokens] == [3, 4, 5, 6, 7]
        for unknown in (rig.ask(2), rig.ask(attempt=2)):
            [failed] = unknown
            assert failed.what == "decode" and "decode-0 does not hold it" in failed.why
            assert failed.retryable and failed.sender is None

    play(scenario)


def test_many_tokens_come_again_in_several_messages():
    async def scenario(rig):
        rig.take(max_tokens=2 * MAX_BATCH + 5)
        await asyncio.sleep(2 * MAX_BATCH + 10.0)
        batches = rig.ask()
        assert [len(batch.tokens) for batch in batches] == [2 * MAX_BATCH, 5]
        assert [t.index for batch in batches for t in batch.tokens] == list(range(1029))

    play(scenario, num_pages=100)


def test_silence_takes_the_leases_of_what_is_not_admitted():
    async def scenario(rig):
        rig.take("a", max_tokens=5)
        rig.layers("b")
        await asyncio.sleep(0.5)
        rig.worker.tick(60.0)
        assert len(rig.slots.owners()) == 2
        rig.worker.tick(60.1)
        assert rig.worker.facts().held == (Held("a", 1, 32, age=0.5, admitted=True),)
        await asyncio.sleep(5.0)

    assert len(play(scenario).tokens("a")) == 5


def test_a_fenced_life_sends_nothing_more_and_its_slots_come_back():
    async def scenario(rig):
        rig.take("a", max_tokens=2)
        await asyncio.sleep(1.5)
        rig.take("b", max_tokens=50)
        rig.layers("c")
        await asyncio.sleep(1.0)
        rig.worker.fence()
        rig.process.renew()
        num_sent = len(rig.sent)
        assert rig.worker.facts().held == (Held("b", 1, 32, age=1.0),)
        await asyncio.sleep(2.0)
        rig.worker.tick(0.0)
        assert len(rig.sent) == num_sent
        assert rig.slots.totals() == (128, 128)
        assert [type(answer) for answer in rig.ask(request="a")] == [Failed]
        rig.take("d", max_tokens=2)
        await asyncio.sleep(2.0)

    rig = play(scenario)
    assert rig.of(TokenBatch)[-1].decode.incarnation == 8
    assert rig.of(Release)[-1].incarnation == rig.of(Admitted)[-1].incarnation == 8


def test_releases_go_to_the_broker_of_now_and_again_with_a_repeated_commit():
    async def scenario(rig):
        rig.layers()
        rig.intake.commit(commit(rank=1, num_layers=0, num_transfers=2))
        await asyncio.sleep(0.1)
        rig.worker.broker = "mem://another"
        for _ in range(2):
            rig.intake.commit(commit(num_transfers=2, job=job(max_tokens=2)))
        await asyncio.sleep(5.0)
        rig.intake.commit(commit(rank=1, num_layers=0, num_transfers=2))
        await asyncio.sleep(0.1)

    rig = play(scenario)
    releases = [(at, m.rank, m.is_last) for at, m in rig.sent if isinstance(m, Release)]
    assert releases == [
        ("mem://broker", 1, False),
        ("mem://another", 0, True),
        ("mem://another", 0, True),
        ("mem://another", 1, True),
    ]
    assert len(rig.of(Admitted)) == 1


def test_the_end_of_an_orphan_frees_its_slots():
    async def scenario(rig):
        rig.layers()
        assert rig.worker.facts().held == (Held("a", 1, 32),)
        rig.worker.receive(EndOfRequest("a", 1, 0, "abort"))
        assert rig.worker.facts().held == () and rig.slots.totals() == (128, 128)
        assert rig.intake.open(layer(1)) is None

    play(scenario)


def test_faults_can_be_injected_where_a_request_is_admitted_steps_and_ends():
    hits = []

    async def scenario(rig):
        for name in ("decode.admit", "decode.step", "decode.end"):
            stack.enter_context(failpoints.hooked(name, lambda name=name: hits.append(name)))
        rig.take(max_tokens=3)
        await asyncio.sleep(5.0)

    with ExitStack() as stack:
        play(scenario)
    assert hits == ["decode.admit", "decode.step", "decode.step", "decode.end"]


def test_messages_that_are_not_for_decode_are_counted():
    async def scenario(rig):
        rig.worker.receive(Welcome(1, 7))

    rig = play(scenario)
    assert rig.sent == []
    assert b'tetris_messages_dropped_total{reason="unexpected"} 1.0' in rig.metrics.render()
