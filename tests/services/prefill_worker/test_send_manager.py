import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.config import Config, MeshConfig, ModelConfig, PrefillConfig
from common.messages import (
    Brokerage,
    Chunk,
    Ending,
    Grant,
    KvAck,
    KvCommit,
    KvLayer,
    KvLayout,
    Loan,
    Member,
    Peer,
    Release,
    RunChunk,
    Sampling,
    Target,
    Token,
)
from common.pages import Owner, Span
from services.prefill_worker.send_manager import Due, Key, SendManager, Sent
from services.prefill_worker.transfer import RETRY

LAYOUT = KvLayout(3, 2, 4, "float32")
CONFIG = Config(
    model=ModelConfig(path="/m", name="m"),
    mesh=MeshConfig(resend=0.5),
    prefill=PrefillConfig(window=2, transfer_timeout=60.0),
)
PEER = Peer("prefill-0", 1, "tcp://p:0")
TARGET = Target("decode-0", 1, "tcp://d:1", "tcp://d:2", 4, "tcp://b:1")
MEMBERS = tuple(Member(f"prefill-{i}", 1, f"tcp://p:{i}", "tcp://r:1", "tcp://s:1") for i in (0, 1))
Plan = tuple[Chunk, ...]
ONE = (Chunk(0, 10, 1),)
SPANS = [Span(16, 26)]


def run_chunk(index: int = 0, rank: int = 0, chunks: Plan = ONE) -> RunChunk:
    return RunChunk(
        epoch=1,
        seq=1,
        turn=1,
        request="a",
        attempt=1,
        index=index,
        chunks=chunks,
        members=MEMBERS[: chunks[-1].size],
        rank=rank,
        target=TARGET,
        gateway=Peer("gateway-0", 1, "tcp://g:1"),
        router="tcp://r:1",
        num_emitted=0,
        reserve=18,
        sampling=Sampling(),
        ending=Ending(max_tokens=8),
        predicted=0.1,
    )


def manager() -> SendManager:
    return SendManager("tcp://p:9", LAYOUT, CONFIG)


def grant(chunk: int = 0, rank: int = 0, generation: int = 5) -> Grant:
    return Grant("a", 1, chunk, rank, backend=2, generation=generation)


def ack(layer: int, chunk: int = 0, rank: int = 0, generation: int = 5) -> KvAck:
    return KvAck("a", 1, chunk, rank, layer, generation)


def layers(due: Due) -> list[int | None]:
    return [p.message.layer if isinstance(p.message, KvLayer) else None for p in due.parcels]


def test_a_handshake_is_repeated_until_it_is_granted() -> None:
    sends = manager()
    sends.begin(run_chunk(1, 0, (Chunk(0, 10, 1), Chunk(10, 9, 2))))
    [handshake] = sends.due(0.0).handshakes
    assert (handshake.chunk, handshake.sender, handshake.target) == (1, PEER, TARGET)
    assert (handshake.num_transfers, handshake.num_senders) == (3, 2)
    assert sends.due(0.4).handshakes == []
    assert sends.due(0.5).handshakes == [handshake]
    sends.receive(grant(1), 0.6)
    assert sends.due(9.0).handshakes == []


def test_nothing_is_sent_before_the_grant() -> None:
    sends = manager()
    sends.begin(run_chunk())
    sends.on_layer(Key("a", 1, 0), 0, SPANS, 0.0)
    assert sends.due(0.0).parcels == []
    sends.receive(grant(), 0.1)
    [parcel] = sends.due(0.1).parcels
    assert parcel.link == TARGET.link
    assert parcel.spans == (Span(16, 26),)
    message = parcel.message
    assert isinstance(message, KvLayer)
    assert (message.backend, message.generation, message.layer) == (2, 5, 0)
    assert message.intervals == ((0, 5), (5, 10))
    assert (message.prompt_length, message.reserve) == (10, 18)
    assert (message.reply, message.incarnation) == ("tcp://p:9", 1)


def test_at_most_a_window_of_layers_is_unacknowledged() -> None:
    sends = manager()
    sends.begin(run_chunk())
    sends.receive(grant(), 0.0)
    for layer in range(3):
        sends.on_layer(Key("a", 1, 0), layer, SPANS, 0.0)
    assert layers(sends.due(0.0)) == [0, 1]
    assert layers(sends.due(0.0)) == []
    sends.receive(ack(1), 0.0)
    assert layers(sends.due(0.0)) == [2]
    sends.receive(ack(1), 0.0)
    assert layers(sends.due(0.0)) == []


def test_the_commit_follows_the_last_acknowledgement_and_the_end_of_compute() -> None:
    sends, key = manager(), Key("a", 1, 0)
    sends.begin(run_chunk())
    sends.receive(grant(), 0.0)
    for layer in range(3):
        sends.on_layer(key, layer, SPANS, 0.0)
        sends.due(0.0)
    sends.receive(ack(0), 0.0)
    sends.receive(ack(1), 0.0)
    first = Token("a", 1, 0, 42)
    per_layer = 10 * 2 * 2 * 4 * 4
    assert layers(sends.due(0.0)) == [2]
    assert sends.on_computed(key, first, 0.0) == Sent(2 * per_layer, 3 * per_layer)
    assert sends.due(0.0).parcels == []
    sends.receive(ack(2), 0.0)
    [parcel] = sends.due(0.0).parcels
    commit = parcel.message
    assert isinstance(commit, KvCommit)
    assert (commit.num_transfers, commit.num_layers, commit.num_tokens) == (1, 3, 10)
    assert commit.broker == TARGET.broker
    assert commit.job is not None
    assert commit.job.first == first
    assert sends.due(0.0).through == []
    sends.receive(ack(3), 0.0)
    assert sends.due(0.0).through == [Owner("a", 1)]
    assert len(sends) == 0


def test_a_member_without_tokens_commits_without_layers() -> None:
    sends, chunks = manager(), (Chunk(0, 1, 2),)
    tokens = {rank: _tokens_of(chunks, rank) for rank in (0, 1)}
    empty = next(rank for rank, count in tokens.items() if count == 0)
    sends.begin(run_chunk(0, empty, chunks))
    sends.receive(grant(rank=empty), 0.0)
    assert sends.due(0.0).parcels == []
    assert sends.on_computed(Key("a", 1, 0), None, 0.0) == Sent(0, 0)
    [parcel] = sends.due(0.0).parcels
    commit = parcel.message
    assert isinstance(commit, KvCommit)
    assert (commit.num_tokens, commit.num_layers, commit.job) == (0, 0, None)
    sends.receive(ack(0, rank=empty), 0.0)
    assert sends.due(0.0).through == [Owner("a", 1)]


def _tokens_of(chunks: tuple[Chunk, ...], rank: int) -> int:
    sends = manager()
    sends.begin(run_chunk(0, rank, chunks))
    return sends.on_computed(Key("a", 1, 0), None, 0.0).total // LAYOUT.bytes_per_token()


def test_kv_is_held_until_every_chunk_is_through() -> None:
    sends, chunks = manager(), (Chunk(0, 10, 1), Chunk(10, 10, 1))
    for index in (0, 1):
        sends.begin(run_chunk(index, 0, chunks))
        sends.receive(grant(index), 0.0)
    through = []
    for index in (1, 0):
        for layer in range(3):
            sends.on_layer(Key("a", 1, index), layer, SPANS, 0.0)
        sends.on_computed(Key("a", 1, index), None, 0.0)
        for layer in range(4):
            sends.due(0.0)
            sends.receive(ack(layer, index), 0.0)
        through.append(sends.due(0.0).through)
    assert through == [[], [Owner("a", 1)]]


def test_a_lost_frame_is_sent_again() -> None:
    sends = manager()
    sends.begin(run_chunk())
    sends.receive(grant(), 0.0)
    sends.on_layer(Key("a", 1, 0), 0, SPANS, 0.0)
    assert layers(sends.due(0.0)) == [0]
    assert layers(sends.due(RETRY - 0.1)) == []
    assert layers(sends.due(RETRY)) == [0]
    assert layers(sends.due(RETRY)) == []


def test_acknowledgements_of_another_loan_or_rank_do_not_count() -> None:
    sends = manager()
    sends.begin(run_chunk())
    sends.receive(grant(), 0.0)
    sends.on_layer(Key("a", 1, 0), 0, SPANS, 0.0)
    sends.due(0.0)
    sends.receive(ack(0, generation=4), 0.0)
    sends.receive(ack(0, rank=1), 0.0)
    sends.receive(ack(0, chunk=1), 0.0)
    assert sends.on_computed(Key("a", 1, 0), None, 0.0).acknowledged == 0
    sends.receive(ack(0), 0.0)
    assert sends.on_computed(Key("a", 1, 0), None, 0.0).acknowledged > 0


def test_a_request_that_decode_stops_to_take_is_stalled() -> None:
    sends = manager()
    sends.begin(run_chunk())
    sends.receive(grant(), 0.0)
    sends.on_layer(Key("a", 1, 0), 0, SPANS, 0.0)
    sends.due(0.0)
    assert sends.due(60.0).stalled == []
    assert sends.due(60.1).stalled == [Owner("a", 1)]
    assert sends.due(200.0) == Due()


def test_an_ended_request_sends_nothing_more() -> None:
    sends, key = manager(), Key("a", 1, 0)
    sends.begin(run_chunk())
    sends.receive(grant(), 0.0)
    sends.end(Owner("a", 1))
    sends.on_layer(key, 0, SPANS, 0.0)
    assert sends.on_computed(key, None, 0.0) == Sent(0, 0)
    sends.receive(ack(0), 0.0)
    assert sends.due(100.0) == Due()


def brokerage(broker: str, incarnation: int = 1) -> Brokerage:
    return Brokerage("decode-0", incarnation, broker)


def sending() -> SendManager:
    """A manager with two layers under way."""
    sends = manager()
    sends.begin(run_chunk())
    sends.receive(grant(), 0.0)
    for layer in (0, 1):
        sends.on_layer(Key("a", 1, 0), layer, SPANS, 0.0)
    assert layers(sends.due(0.0)) == [0, 1]
    return sends


def test_handshakes_go_to_the_broker_of_today() -> None:
    sends = manager()
    sends.follow([brokerage("tcp://b:2"), brokerage("tcp://b:3", incarnation=2)])
    sends.begin(run_chunk())
    [handshake] = sends.due(0.0).handshakes
    assert (handshake.target.broker, handshake.held) == ("tcp://b:2", None)
    assert sends.broker(TARGET) == "tcp://b:2"
    sends.follow([brokerage("tcp://b:4")])
    [handshake] = sends.due(0.1).handshakes
    assert (handshake.target.broker, handshake.held) == ("tcp://b:4", None)
    sends.follow([])
    assert sends.broker(TARGET) == "tcp://b:1"
    assert sends.due(0.2).handshakes == []


def test_a_loan_in_use_is_announced_to_a_new_broker_until_it_answers() -> None:
    sends = sending()
    sends.follow([brokerage("tcp://b:2")])
    for now in (0.1, 0.6):
        [handshake] = sends.due(now).handshakes
        assert (handshake.target.broker, handshake.held) == ("tcp://b:2", Loan(2, 5))
        assert sends.due(now + 0.1).handshakes == []
        sends.follow([brokerage("tcp://b:2")])
    sends.receive(grant(generation=4), 1.0)
    assert len(sends.due(1.2).handshakes) == 1
    sends.receive(grant(), 1.3)
    assert sends.due(1.9) == Due()
    sends.receive(ack(0), 1.9)
    assert sends.on_computed(Key("a", 1, 0), None, 2.0).acknowledged > 0


@pytest.mark.parametrize("broker", ["tcp://b:2", "tcp://b:3"])
def test_a_broker_that_took_over_hears_the_end_of_a_transfer_from_its_sender(
    broker: str,
) -> None:
    sends, key = manager(), Key("a", 1, 0)
    sends.follow([brokerage("tcp://b:2")])
    sends.begin(run_chunk())
    sends.receive(grant(), 0.0)
    sends.follow([brokerage(broker)])
    for layer in range(3):
        sends.on_layer(key, layer, SPANS, 0.0)
    sends.on_computed(key, None, 0.0)
    for layer in range(4):
        assert sends.due(0.0).releases == []
        sends.receive(ack(layer), 0.0)
    due = sends.due(0.0)
    release = Release("a", 1, 0, 0, TARGET.name, TARGET.incarnation)
    assert due.releases == [(broker, release)]
    assert due.through == [Owner("a", 1)]
    assert sends.due(9.0).releases == []


def test_a_broker_that_comes_back_at_the_same_place_is_told_too() -> None:
    sends = manager()
    sends.follow([brokerage("tcp://b:2")])
    sends.begin(run_chunk())
    sends.receive(grant(), 0.0)
    sends.follow([])
    assert sends.due(0.0).handshakes == []
    sends.follow([brokerage("tcp://b:2")])
    [handshake] = sends.due(0.0).handshakes
    assert handshake.held == Loan(2, 5)


def test_under_a_newer_loan_whatever_is_not_acknowledged_goes_again() -> None:
    sends = sending()
    sends.receive(ack(0), 0.1)
    sends.follow([brokerage("tcp://b:2")])
    sends.receive(grant(generation=9), 0.2)
    due = sends.due(0.2)
    assert due.handshakes == []
    [parcel] = due.parcels
    assert isinstance(parcel.message, KvLayer)
    assert (parcel.message.layer, parcel.message.generation) == (1, 9)
    sends.receive(grant(), 0.3)
    sends.receive(ack(1), 0.3)
    assert sends.due(0.4).parcels == []
    sends.receive(ack(1, generation=9), 0.4)
    sends.on_layer(Key("a", 1, 0), 2, SPANS, 0.4)
    sends.on_computed(Key("a", 1, 0), None, 0.4)
    assert layers(sends.due(0.4)) == [2]
    sends.receive(ack(2, generation=9), 0.5)
    [parcel] = sends.due(0.5).parcels
    assert isinstance(parcel.message, KvCommit)
    assert (parcel.message.broker, parcel.message.generation) == ("tcp://b:2", 9)


def test_a_broker_may_take_its_time_but_decode_may_not() -> None:
    sends = sending()
    sends.follow([brokerage("tcp://b:2")])
    assert sends.due(100.0).stalled == []
    sends.receive(grant(), 100.0)
    assert sends.due(160.0).stalled == []
    assert sends.due(160.1).stalled == [Owner("a", 1)]


def test_a_transfer_that_is_through_is_not_announced() -> None:
    sends, chunks = manager(), (Chunk(0, 10, 1), Chunk(10, 10, 1))
    sends.begin(run_chunk(0, 0, chunks))
    sends.receive(grant(), 0.0)
    for layer in range(3):
        sends.on_layer(Key("a", 1, 0), layer, SPANS, 0.0)
    sends.on_computed(Key("a", 1, 0), None, 0.0)
    for layer in range(4):
        sends.due(0.0)
        sends.receive(ack(layer), 0.0)
    sends.due(0.0)
    sends.follow([brokerage("tcp://b:2")])
    assert sends.due(0.0) == Due()


class Wire:
    """A link that loses frames, and an engine that finishes layers in its own time."""

    def __init__(self) -> None:
        self.sends, self.key, self.now = manager(), Key("a", 1, 0), 0.0
        self.computed = 0
        self.flying: list[int] = []
        self.arrived: set[int] = set()
        self.is_through = self.is_stalled = False
        self.sends.begin(run_chunk())

    def compute(self) -> None:
        if self.computed < 3:
            self.sends.on_layer(self.key, self.computed, SPANS, self.now)
            self.computed += 1
            if self.computed == 3:
                self.sends.on_computed(self.key, None, self.now)

    def grant(self) -> None:
        self.sends.receive(grant(), self.now)

    def ack(self) -> None:
        if self.flying:
            self.arrived.add(self.flying[0])
            self.sends.receive(ack(self.flying.pop(0)), self.now)

    def lose(self) -> None:
        self.flying.clear()

    def wait(self) -> None:
        self.now += RETRY / 2

    def collect(self) -> None:
        due = self.sends.due(self.now)
        self.is_through |= bool(due.through)
        self.is_stalled |= bool(due.stalled)
        sent = [3 if layer is None else layer for layer in layers(due)]
        assert 3 not in sent or self.arrived >= {0, 1, 2}
        self.flying += sent


@given(st.lists(st.sampled_from(["compute", "grant", "ack", "lose", "wait"]), max_size=200))
def test_whatever_is_lost_every_layer_arrives_once_the_losses_stop(events: list[str]) -> None:
    wire = Wire()
    for event in [*events, "grant", *3 * ["compute"], *60 * ["wait", "ack", "ack"]]:
        getattr(wire, event)()
        wire.collect()
    # A minute of silence gives the request up instead.
    assert wire.is_stalled or (wire.is_through and wire.arrived == {0, 1, 2, 3})
