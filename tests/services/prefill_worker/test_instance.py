"""The control side with hands that compute only when told to, and a mesh that only notes."""

import numpy as np
import pytest
import structlog

from common.config import Config, ModelConfig, PrefillConfig
from common.errors import OutOfPages, RequestFailed
from common.messages import (
    Cancel,
    Chunk,
    ChunkDone,
    ControlMessage,
    EndOfRequest,
    Failed,
    FirstToken,
    Grant,
    Handshake,
    KvAck,
    KvLayout,
    Peer,
    Ready,
    Released,
    Running,
    Skip,
    Token,
)
from common.metrics import Metrics
from common.pages import Owner, Span
from common.service import Process
from services.prefill_worker.hands import ChunkResult, Slots, Work
from services.prefill_worker.instance import Instance
from services.prefill_worker.plan import owner_of
from services.prefill_worker.send_manager import Parcel, SendManager
from tests.services.prefill_worker.plans import plan, run_chunk

LAYOUT = KvLayout(1, 2, 4, "float32")
CONFIG = Config(
    model=ModelConfig(path="/m", name="m"), prefill=PrefillConfig(window=2, step_timeout=60.0)
)


class Rig:
    """An instance; also its clock, its mesh and its hands."""

    def __init__(self) -> None:
        self.time = 0.0
        self.sent: list[tuple[str, ControlMessage]] = []
        self.started: list[Work] = []
        self.parcels: list[Parcel] = []
        self.released: list[Owner] = []
        peer = Peer("prefill-0", 1, "tcp://p:1")
        log = structlog.make_filtering_bound_logger(50)(None, [], {})
        self.metrics = Metrics()
        process = Process(CONFIG, self, self, self.metrics, log, peer, "node-0")
        sends = SendManager(peer, "tcp://p:9", LAYOUT, CONFIG)
        self.instance = Instance(process, sends, self)

    def now(self) -> float:
        return self.time

    def send(self, endpoint: str, message: ControlMessage) -> None:
        self.sent.append((endpoint, message))

    def start(self, work: Work, instance: Instance) -> None:
        assert instance is self.instance
        self.started.append(work)

    def submit(self, parcel: Parcel) -> None:
        self.parcels.append(parcel)

    def release(self, owner: Owner) -> None:
        self.released.append(owner)

    def slots(self) -> Slots:
        return Slots(64, 48, ())

    def plan(self, chunks: list[Chunk], request: str = "a", turn: int = 1, epoch: int = 1) -> None:
        """All of a request's chunks on this member."""
        for index, chunk in enumerate(chunks):
            changes = {"request": request, "turn": turn + index, "epoch": epoch}
            ids = np.arange(chunk.length, dtype="<i4").tobytes()
            self.instance.receive(run_chunk(chunks, index, 0, **changes), (ids,))

    def compute(self, first: int | None = None, finish: str | None = None) -> None:
        """Finish the chunk that was started last."""
        run = self.started[-1].run
        self.instance.on_ready(run)
        self.instance.on_layer(run, 0, [Span(0, 16)])
        token = first if first is None else Token(*owner_of(run), 0, first, finish=finish)
        self.instance.on_done(run, ChunkResult(token, 1.0, 0.5, 0.5, 0.25))

    def hand_over(self, chunk: int = 0) -> None:
        """Grant and acknowledge whatever a chunk sends."""
        self.instance.receive(Grant("a", 1, chunk, 0, 0, 1))
        for layer in (0, 1):
            self.instance.on_ack(KvAck("a", 1, chunk, 0, layer, 1))

    def of(self, kind: type) -> list[ControlMessage]:
        return [message for _, message in self.sent if isinstance(message, kind)]

    def computed(self) -> list[tuple[str, int]]:
        return [(work.run.request, work.run.index) for work in self.started]


A = Owner("a", 1)
RELEASED = Released("prefill-0", 1, "a", 1)


def test_a_chunk_is_computed_handed_over_and_released() -> None:
    rig = Rig()
    rig.plan(plan((8, 1)))
    assert list(rig.started[0].ids) == list(range(8))
    assert len(rig.of(Handshake)) == 1
    rig.compute(first=5)
    assert rig.of(Ready) == [Ready("prefill-0", 1, 1, 1)]
    [done] = rig.of(ChunkDone)
    assert isinstance(done, ChunkDone)
    assert (done.compute, done.wait, done.balance, done.total_bytes) == (1.0, 0.5, 0.25, 512)
    [first] = rig.of(FirstToken)
    assert isinstance(first, FirstToken)
    assert (first.token.id, first.decode.name) == (5, "d")
    assert rig.released == []
    rig.hand_over()
    assert len(rig.parcels) == 2
    assert rig.released == [A]
    assert rig.of(Released) == [RELEASED]
    facts = rig.instance.facts()
    assert (facts.finished_through, facts.running, facts.free_slots) == (1, None, 48)


def test_a_chunk_that_waits_for_its_group_is_not_running_yet() -> None:
    rig = Rig()
    rig.plan(plan((8, 2)))
    run = rig.started[0].run
    rig.instance.on_ready(run)
    assert rig.instance.facts().running is None
    rig.instance.on_layer(run, 0, [Span(0, 16)])
    assert rig.instance.facts().running == Running(1, 0)


def test_chunks_run_one_at_a_time_and_repeated_ones_once() -> None:
    rig = Rig()
    for _ in range(2):
        rig.plan(plan((8, 1), (8, 1)))
    assert rig.computed() == [("a", 0)]
    rig.compute()
    rig.plan(plan((8, 1), (8, 1)))
    assert rig.computed() == [("a", 0), ("a", 1)]


def test_a_void_turn_makes_way_for_the_next() -> None:
    rig = Rig()
    rig.plan(plan((8, 1)), turn=2)
    assert rig.started == []
    rig.instance.receive(Skip(1, 1))
    assert rig.computed() == [("a", 0)]


def test_token_0_that_ends_the_request_ends_it_everywhere() -> None:
    rig = Rig()
    rig.plan(plan((8, 2)))
    rig.compute(first=5, finish="stop")
    end = EndOfRequest("a", 1, 1, "stop")
    assert len([message for _, message in rig.sent if message == end]) == 4
    assert rig.released == [A]
    rig.hand_over()
    assert rig.parcels == []


def test_a_cancelled_request_drops_what_has_not_begun_and_finishes_what_runs() -> None:
    rig = Rig()
    rig.plan(plan((8, 1), (8, 1)))
    rig.instance.receive(Cancel("a", 1))
    assert rig.released == []
    rig.compute()
    assert rig.computed() == [("a", 0)]
    assert rig.released == [A]
    assert rig.of(Released) == [RELEASED]
    assert rig.instance.facts().finished_through == 2


def test_a_cancelled_request_is_still_run_where_others_would_wait_for_this_member() -> None:
    rig = Rig()
    rig.plan(plan((8, 1), (8, 2)))
    rig.instance.receive(Cancel("a", 1))
    rig.compute()
    rig.compute(first=5)
    assert rig.computed() == [("a", 0), ("a", 1)]
    assert rig.of(FirstToken) == []
    assert rig.released == [A]


def test_a_chunk_that_comes_after_the_end_is_void() -> None:
    rig = Rig()
    rig.instance.receive(Cancel("a", 1))
    rig.plan(plan((8, 2)))
    assert rig.started == []
    assert rig.of(Released) == [RELEASED]
    assert rig.instance.facts().finished_through == 1


@pytest.mark.parametrize(
    ("error", "retryable"), [(OutOfPages("full"), True), (RequestFailed("no"), False)]
)
def test_a_failed_chunk_ends_the_request_here_and_tells_everybody(
    error: OutOfPages | RequestFailed, retryable: bool
) -> None:
    rig = Rig()
    rig.plan(plan((8, 1), (8, 1)))
    rig.plan(plan((8, 1)), request="b", turn=3)
    rig.instance.on_failed(rig.started[0].run, error)
    what = "prefill of chunk 0 at prefill-0"
    assert rig.of(Failed) == [Failed("a", 1, what, str(error), retryable)]
    assert len(rig.of(EndOfRequest)) == 2  # broker and decode
    assert rig.released == [A]
    assert rig.computed() == [("a", 0), ("b", 0)]


def test_a_request_that_decode_stops_to_take_fails() -> None:
    rig = Rig()
    rig.plan(plan((8, 1)))
    rig.instance.receive(Grant("a", 1, 0, 0, 0, 1))
    rig.compute(first=5)
    rig.time = 61.0
    rig.instance.advance()
    [failed] = rig.of(Failed)
    assert isinstance(failed, Failed)
    assert failed.retryable
    assert rig.released == [A]


def test_a_new_life_of_the_router_forgets_what_has_not_been_computed() -> None:
    rig = Rig()
    rig.plan(plan((8, 1), (8, 1)))
    rig.plan(plan((8, 1)), request="b", epoch=2)
    assert rig.computed() == [("a", 0)]
    rig.compute()
    assert rig.released == [A]
    assert rig.computed() == [("a", 0), ("b", 0)]
    rig.compute()
    assert rig.instance.facts().finished_through == 1
    rig.plan(plan((8, 1)), request="c", turn=2, epoch=1)
    assert rig.computed() == [("a", 0), ("b", 0)]


def test_a_new_life_of_the_router_hears_nothing_of_the_numbers_of_the_old() -> None:
    rig = Rig()
    rig.plan(plan((8, 1)))
    rig.instance.enter(2)
    facts = rig.instance.facts()
    assert (facts.received_through, facts.running) == (0, None)
    rig.compute()
    assert rig.of(Ready) == rig.of(ChunkDone) == []
    assert rig.of(Released) == [RELEASED]


def test_plans_that_do_not_hold_together_and_broken_ids_are_dropped() -> None:
    rig = Rig()
    rig.instance.receive(run_chunk(plan((8, 1)), 0, 1), (bytes(32),))
    rig.instance.receive(run_chunk(plan((8, 1)), 0, 0), (bytes(31),))
    assert rig.started == []
    assert b'tetris_messages_dropped_total{reason="field"} 2.0' in rig.metrics.render()
