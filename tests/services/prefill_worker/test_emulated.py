"""Emulated hands in virtual time, whose instance only notes what it is told and when."""

import asyncio
from dataclasses import dataclass, field

import numpy as np
import pytest
import structlog

from common.clock import LoopClock
from common.config import Config, ModelConfig, PrefillConfig, StepCost
from common.emulated_links import EmulatedLinks
from common.emulated_model import EmulatedModel
from common.errors import Aborted, LinkTimeout, OutOfPages, TetrisError
from common.latency import Curve, LatencyModel
from common.messages import (
    Ending,
    KvAck,
    KvLayout,
    LinkMessage,
    Peer,
    RingAbort,
    RunChunk,
    Sampling,
)
from common.metrics import Metrics
from common.pages import Owner, Span, num_slots
from common.service import Process
from services.prefill_worker.emulated import EmulatedHands
from services.prefill_worker.hands import ChunkResult, Work
from services.prefill_worker.transfer import Parcel
from tests.services.decode_worker.transfers import layer
from tests.services.prefill_worker.plans import members_at, plan, run_chunk
from tests.simulation.virtual_loop import run

CURVES = LatencyModel({1: Curve(1.0, 0.0, 0.0, 0.0), 2: Curve(2.0, 0.0, 0.0, 0.0)})
MODEL = EmulatedModel(
    KvLayout(4, 2, 8, "bfloat16"), CURVES, StepCost(base=1.0, request=0.0, token=0.0)
)
CONFIG = Config(
    model=ModelConfig(path="/m", name="m"),
    prefill=PrefillConfig(kv_tokens=64, start_timeout=30.0),
)


@dataclass
class Notes:
    """In place of an instance: (seconds, what) of everything."""

    ready: list[float] = field(default_factory=list)
    layers: list[tuple[float, int, int]] = field(default_factory=list)
    done: list[tuple[float, ChunkResult]] = field(default_factory=list)
    failed: list[tuple[float, TetrisError]] = field(default_factory=list)

    def on_ready(self, run: RunChunk) -> None:
        self.ready.append(now())

    def on_layer(self, run: RunChunk, layer: int, spans: list[Span]) -> None:
        self.layers.append((now(), layer, num_slots(spans)))

    def on_done(self, run: RunChunk, result: ChunkResult) -> None:
        self.done.append((now(), result))

    def on_failed(self, run: RunChunk, error: TetrisError) -> None:
        self.failed.append((now(), error))


def now() -> float:
    return round(asyncio.get_running_loop().time(), 3)


class Group:
    """Two instances; what each is told is in `notes`."""

    def __init__(self) -> None:
        self.links = EmulatedLinks(1000.0)
        log = structlog.make_filtering_bound_logger(50)(None, [], {})
        peers = [Peer(f"m{rank}", rank + 1, f"mem://{rank}") for rank in (0, 1)]
        self.hands = [
            EmulatedHands(
                Process(CONFIG, None, LoopClock(), Metrics(), log, peer, "node"), MODEL, self.links
            )
            for peer in peers
        ]
        self.notes = [Notes(), Notes()]
        self.members = members_at(
            [hands.ring for hands in self.hands], [hands.balance for hands in self.hands]
        )

    def start(self, chunks, index: int, rank: int, ids=(), **changes) -> RunChunk:
        message = run_chunk(chunks, index, rank, self.members[: chunks[-1].size], **changes)
        self.hands[rank].start(Work(message, np.array(ids, np.int32)), self.notes[rank])
        return message


def play(scenario) -> Group:
    async def main() -> Group:
        group = Group()
        first, second = group.hands
        with (
            group.links.bound(first.ring, first.receive),
            group.links.bound(second.ring, second.receive),
        ):
            async with asyncio.TaskGroup() as tasks:
                running = [tasks.create_task(hands.run()) for hands in group.hands]
                await scenario(group)
                for task in running:
                    task.cancel()
        return group

    return run(main())


def test_a_chunk_takes_its_seconds_and_its_layers_come_evenly():
    async def scenario(group: Group) -> None:
        group.start(plan((20, 1)), 0, 0, ending=Ending(5))
        await asyncio.sleep(5.0)

    notes = play(scenario).notes[0]
    assert notes.ready == [0.0]
    assert notes.layers == [(0.25, 0, 20), (0.5, 1, 20), (0.75, 2, 20), (1.0, 3, 20)]
    assert notes.done[0][1].moments == pytest.approx((0.0, 0.0, 1.0, 1.0))
    [(at, result)] = notes.done
    assert (at, result.compute, result.wait, result.balance) == (1.0, 1.0, 0.0, 0.0)
    assert result.first is not None
    sampling = run_chunk(plan((20, 1)), 0, 0).sampling
    assert (result.first.id, result.first.finish) == (MODEL.sample(sampling, 20).id, None)


def test_a_group_starts_when_its_last_member_has_come():
    async def scenario(group: Group) -> None:
        group.start(plan((20, 2)), 0, 0)
        await asyncio.sleep(3.0)
        assert group.notes[0].layers == []
        group.start(plan((20, 2)), 0, 1)
        await asyncio.sleep(5.0)

    group = play(scenario)
    assert [[at for at, _ in notes.done] for notes in group.notes] == [[5.0], [5.0]]
    waits = [notes.done[0][1].wait for notes in group.notes]
    assert waits == [pytest.approx(3.0, abs=0.001), pytest.approx(0.0, abs=0.001)]
    firsts = [notes.done[0][1].first for notes in group.notes]
    # The last shard of a zigzag is the first member's.
    assert firsts[0] is not None and firsts[0].finish == "length"
    assert firsts[1] is None


def test_a_member_that_joins_later_takes_history_into_its_books():
    chunks = plan((20, 1), (20, 2))

    async def scenario(group: Group) -> None:
        group.start(chunks, 0, 0)
        await asyncio.sleep(2.0)
        group.start(chunks, 1, 0)
        group.start(chunks, 1, 1)
        await asyncio.sleep(3.0)
        assert [hands.slots().free for hands in group.hands] == [64 - 32 - 16, 64 - 16 - 16]
        group.hands[0].release(Owner("r", 1))
        assert group.hands[0].slots() == (64, 64, ())

    group = play(scenario)
    assert group.notes[0].done[0][1].first is None
    assert [len(notes.done) for notes in group.notes] == [2, 1]


def test_a_member_that_never_comes_fails_the_chunk_and_frees_its_slots():
    async def scenario(group: Group) -> None:
        group.start(plan((20, 2)), 0, 0)
        await asyncio.sleep(40.0)
        assert group.hands[0].slots().free == 64
        group.start(plan((20, 1)), 0, 0, request="next")
        await asyncio.sleep(2.0)

    notes = play(scenario).notes[0]
    [(at, error)] = notes.failed
    assert at == 30.0 and isinstance(error, LinkTimeout)
    assert len(notes.done) == 1


def test_a_chunk_without_room_fails():
    async def scenario(group: Group) -> None:
        group.start(plan((65, 1)), 0, 0)
        await asyncio.sleep(1.0)

    [(_, error)] = play(scenario).notes[0].failed
    assert isinstance(error, OutOfPages)


def test_kv_takes_the_time_of_its_bytes():
    arrived: list[tuple[float, LinkMessage]] = []

    async def scenario(group: Group) -> None:
        with group.links.bound("decode", lambda message: arrived.append((now(), message))):
            message = layer(0, intervals=((0, 5), (15, 20)))
            group.hands[0].submit(Parcel("decode", message))
            await asyncio.sleep(10.0)

    play(scenario)
    # 10 tokens of 2 heads of 8 halves of 2 bytes, keys and values, at 1000 bytes/s
    assert [at for at, _ in arrived] == [0.64]


def test_messages_of_other_links_are_ignored():
    async def scenario(group: Group) -> None:
        group.links.send("from", group.hands[0].ring, KvAck("r", 1, 0, 1, 0, 1))
        group.start(plan((20, 2)), 0, 0)
        await asyncio.sleep(5.0)

    assert play(scenario).notes[0].done == []


@pytest.mark.parametrize("moment", [1.0, 3.5])
def test_an_abort_ends_gathering_and_computing_at_once_at_all_members(moment: float):
    """Alone rank 0 gathers for 2 s, then both compute for 2 s."""

    async def scenario(group: Group) -> None:
        group.start(plan((20, 2)), 0, 0)
        await asyncio.sleep(2.0)
        if moment > 2.0:
            group.start(plan((20, 2)), 0, 1)
        await asyncio.sleep(moment - 2.0)
        group.hands[0].abort(Owner("r", 1))
        await asyncio.sleep(0.1)
        if moment < 2.0:
            group.start(plan((20, 2)), 0, 1)
        await asyncio.sleep(0.1)
        assert [hands.slots().free for hands in group.hands] == [64, 64]
        group.start(plan((20, 2)), 0, 0, request="next")
        group.start(plan((20, 2)), 0, 1, request="next")
        await asyncio.sleep(3.0)

    group = play(scenario)
    for notes in group.notes:
        [(at, error)] = notes.failed
        assert isinstance(error, Aborted)
        assert at - max(moment, 2.0) <= 0.11
        assert len(notes.done) == 1


def test_an_abort_of_another_attempt_disturbs_nobody():
    async def scenario(group: Group) -> None:
        group.start(plan((20, 1)), 0, 0)
        await asyncio.sleep(0.3)
        group.hands[0].abort(Owner("r", 2))
        group.hands[0].receive(RingAbort("r", 1, 1, 2))
        await asyncio.sleep(1.0)

    notes = play(scenario).notes[0]
    assert [at for at, _ in notes.done] == [1.0]
    assert [at for at, _, _ in notes.layers] == [0.25, 0.5, 0.75, 1.0]


def test_a_new_life_has_links_of_its_own():
    links = EmulatedLinks(1000.0)
    log = structlog.make_filtering_bound_logger(50)(None, [], {})
    places = set()
    for incarnation in (1, 2):
        peer = Peer("m0", incarnation, "mem://0")
        process = Process(CONFIG, None, LoopClock(), Metrics(), log, peer, "node")
        hands = EmulatedHands(process, MODEL, links)
        places |= {hands.ring, hands.balance, hands.kv}
    assert len(places) == 6


def test_every_token_of_a_prompt_is_scored_once_where_that_is_wanted():
    ids = list(range(100, 120))

    async def scenario(group: Group) -> None:
        chunks = plan((7, 1), (13, 2))
        group.start(chunks, 0, 0, ids[:8], prompt_logprobs=2)
        await asyncio.sleep(2.0)
        for rank in (0, 1):
            group.start(chunks, 1, rank, ids[7:], prompt_logprobs=2)
        await asyncio.sleep(5.0)

    results = [result for notes in play(scenario).notes for _, result in notes.done]
    found = {}
    for scores in (scores for result in results for scores in result.scores):
        found |= dict(enumerate(scores.message(slice(None)), scores.start))
    assert sum(len(scores) for result in results for scores in result.scores) == 19
    expected = MODEL.scores(1, np.array(ids[1:], np.int32), 2).message(slice(None))
    assert found == dict(enumerate(expected, 1))


def test_nobody_scores_what_is_not_asked_for():
    async def scenario(group: Group) -> None:
        group.start(plan((20, 1)), 0, 0, range(20))
        await asyncio.sleep(5.0)

    [(_, result)] = play(scenario).notes[0].done
    assert result.scores == ()


def test_token_0_is_told_with_its_alternatives():
    async def scenario(group: Group) -> None:
        group.start(plan((20, 1)), 0, 0, range(20), sampling=Sampling(logprobs=3))
        await asyncio.sleep(5.0)

    [(_, result)] = play(scenario).notes[0].done
    drawn = MODEL.sample(Sampling(logprobs=3), 20)
    assert (result.first.logprob, result.first.top) == (drawn.logprob, drawn.top)
    assert drawn.top
