"""The control side with hands that compute only when told to, and a mesh that only notes."""

from collections.abc import Callable

import numpy as np
import pytest
import structlog
from msgspec import structs

from common import failpoints
from common.config import Config, ModelConfig, PrefillConfig
from common.errors import Aborted, OutOfPages, RequestFailed, TetrisError
from common.messages import (
    Brokerage,
    Cancel,
    Chunk,
    ChunkDone,
    ChunkTimes,
    ControlMessage,
    EndOfRequest,
    Failed,
    FirstToken,
    Grant,
    Handshake,
    Held,
    KvAck,
    KvLayout,
    Peer,
    PromptScores,
    Ready,
    Release,
    Released,
    Running,
    Scored,
    Skip,
    Times,
    Token,
    Welcome,
)
from common.metrics import Metrics
from common.pages import Owner, Span
from common.scores import Scores
from common.service import Process
from services.prefill_worker.hands import ChunkResult, Moments, Slots, Work
from services.prefill_worker.instance import Instance
from services.prefill_worker.plan import owner_of
from services.prefill_worker.send_manager import SendManager
from services.prefill_worker.transfer import Parcel
from tests.services.prefill_worker.plans import plan, run_chunk

INBOX = "tcp://127.0.0.1:1"
LAYOUT = KvLayout(1, 2, 4, "float32")
CONFIG = Config(
    model=ModelConfig(path="/m", name="m"), prefill=PrefillConfig(window=2, transfer_timeout=60.0)
)


class Rig:
    """An instance; also its clock, its mesh and its hands."""

    def __init__(self) -> None:
        self.time = 0.0
        self.sent: list[tuple[str, ControlMessage]] = []
        self.started: list[Work] = []
        self.parcels: list[Parcel] = []
        self.released: list[Owner] = []
        self.aborted: list[Owner] = []
        self.held: tuple[Held, ...] = ()
        peer = Peer("m0", 1, INBOX)
        log = structlog.make_filtering_bound_logger(50)(None, [], {})
        self.metrics = Metrics()
        self.process = Process(CONFIG, self, self, self.metrics, log, peer, "node-0")
        sends = SendManager("tcp://p:9", LAYOUT, CONFIG)
        self.instance = Instance(self.process, sends, self)

    def now(self) -> float:
        return self.time

    def wall(self) -> float:
        return 1000.0 + self.time

    def send(self, endpoint: str, message: ControlMessage) -> None:
        self.sent.append((endpoint, message))

    def start(self, work: Work, instance: Instance) -> None:
        assert instance is self.instance
        self.started.append(work)

    def submit(self, parcel: Parcel) -> None:
        self.parcels.append(parcel)

    def abort(self, owner: Owner) -> None:
        assert owner_of(self.started[-1].run) == owner
        self.aborted.append(owner)

    def release(self, owner: Owner) -> None:
        self.released.append(owner)

    def slots(self) -> Slots:
        return Slots(64, 48, self.held)

    def plan(self, chunks: list[Chunk], request: str = "a", turn: int = 1, epoch: int = 1) -> None:
        """All of a request's chunks on this member."""
        for index, chunk in enumerate(chunks):
            changes = {"request": request, "turn": turn + index, "epoch": epoch}
            changes |= {"received": 0.25, "planned": 0.5}
            ids = np.arange(chunk.length, dtype="<i4").tobytes()
            run = run_chunk(chunks, index, 0, **changes)
            members = [structs.replace(run.members[0], incarnation=self.process.peer.incarnation)]
            run = structs.replace(run, members=(*members, *run.members[1:]))
            self.instance.receive(run, (ids,))

    def compute(self, first: int | None = None, finish: str | None = None) -> None:
        """Finish the chunk that was started last."""
        run = self.started[-1].run
        self.instance.on_ready(run)
        self.instance.on_layer(run, 0, [Span(0, 16)])
        token = first if first is None else Token(*owner_of(run), 0, first, finish=finish)
        moments = Moments(self.time - 1.75, self.time - 1.25, self.time - 0.25, self.time)
        self.instance.on_done(run, ChunkResult(token, 1.0, 0.5, 0.5, 0.25, moments))

    def fail(self, error: TetrisError) -> None:
        """End the chunk that was started last with an error."""
        self.instance.on_failed(self.started[-1].run, error)

    def tick(self, seconds: float) -> None:
        """Let time pass."""
        self.time += seconds
        self.sent.clear()
        self.instance.advance()

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
RELEASED = Released("m0", 1, "a", 1)


def test_a_chunk_is_computed_handed_over_and_released() -> None:
    rig = Rig()
    rig.plan(plan((8, 1)))
    assert list(rig.started[0].ids) == list(range(8))
    assert len(rig.of(Handshake)) == 1
    rig.compute(first=5)
    assert rig.of(Ready) == [Ready("m0", 1, 1, 1)]
    [done] = rig.of(ChunkDone)
    assert isinstance(done, ChunkDone)
    assert (done.compute, done.wait, done.balance, done.total_bytes) == (1.0, 0.5, 0.25, 512)
    assert done.gather == 0.5
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
    rig.instance.receive(Skip(1, 1, 1))
    assert rig.computed() == [("a", 0)]


def test_token_0_that_ends_the_request_ends_it_everywhere() -> None:
    rig = Rig()
    rig.plan(plan((8, 2)))
    rig.compute(first=5, finish="stop")
    end = EndOfRequest("a", 1, 1, "stop", INBOX)
    assert len([message for _, message in rig.sent if message == end]) == 4
    assert rig.released == [A]
    rig.hand_over()
    assert rig.parcels == []


@pytest.mark.parametrize("size", [1, 2])
def test_a_cancelled_request_drops_what_has_not_begun_and_aborts_what_runs(size: int) -> None:
    rig = Rig()
    rig.plan(plan((8, 1), (8, size)))
    rig.plan(plan((8, 1)), request="b", turn=3)
    for _ in range(2):
        rig.instance.receive(Cancel("a", 1))
    assert (rig.aborted, rig.released) == ([A], [])
    rig.fail(Aborted("over"))
    assert rig.computed() == [("a", 0), ("b", 0)]
    assert rig.released == [A]
    assert rig.of(Released) == [RELEASED]
    assert rig.of(Failed) == rig.of(EndOfRequest) == []
    assert rig.instance.facts().finished_through == 2


def test_a_chunk_that_is_done_before_its_abort_counts_as_done_and_gives_no_token() -> None:
    rig = Rig()
    rig.plan(plan((8, 1)))
    rig.instance.receive(Cancel("a", 1))
    rig.compute(first=5)
    assert len(rig.of(ChunkDone)) == 1
    assert rig.of(FirstToken) == []
    assert rig.released == [A]


def test_token_0_comes_with_the_moments_of_all_chunks_on_the_wall_clock() -> None:
    rig = Rig()
    chunks = plan((8, 1), (8, 2))
    rig.time = 1.0
    rig.plan(chunks)
    rig.time = 3.0
    rig.plan(chunks)  # once more: a chunk has come when it first came
    rig.compute()
    assert rig.of(FirstToken) == []
    rig.time = 7.0
    rig.compute(first=5)
    [first] = rig.of(FirstToken)
    assert isinstance(first, FirstToken)
    assert first.times == Times(
        received=0.25,
        planned=0.5,
        chunks=(
            ChunkTimes(1001.0, 1001.25, 1001.75, 1002.75, 0.25),
            ChunkTimes(1001.0, 1005.25, 1005.75, 1006.75, 0.25),
        ),
        sampled=1007.0,
    )


def test_a_request_that_ends_while_others_run_is_released_at_once() -> None:
    rig = Rig()
    rig.plan(plan((8, 1)), request="b")
    rig.plan(plan((8, 2)), turn=2)
    rig.instance.receive(EndOfRequest("a", 1, 0, "abort"))
    assert (rig.aborted, rig.released) == ([], [A])
    rig.compute()
    assert rig.computed() == [("b", 0)]
    assert rig.instance.facts().finished_through == 2


def test_a_group_that_another_member_has_left_fails_the_attempt() -> None:
    rig = Rig()
    rig.plan(plan((8, 2)))
    rig.fail(Aborted("rank 1 has left the group"))
    [failed] = rig.of(Failed)
    assert isinstance(failed, Failed)
    assert failed.retryable
    assert rig.aborted == []


def test_a_failure_is_repeated_until_the_router_answers() -> None:
    rig = Rig()
    rig.plan(plan((8, 2)))
    rig.fail(OutOfPages("full"))
    [failed] = rig.of(Failed)
    assert isinstance(failed, Failed)
    assert failed.sender == INBOX
    rig.tick(0.25)
    assert rig.of(Failed) == []
    rig.tick(0.25)
    assert rig.of(Failed) == [failed]
    rig.instance.receive(EndOfRequest("a", 1, 0, "error", sender="tcp://another-worker:1"))
    rig.tick(0.5)
    assert rig.sent == [(INBOX, failed)]
    rig.instance.receive(EndOfRequest("a", 1, 0, "error"))
    rig.tick(0.5)
    assert rig.sent == []


def test_an_end_with_token_0_is_repeated_until_the_router_sends_it_back() -> None:
    rig = Rig()
    rig.plan(plan((8, 2)))
    rig.compute(first=5, finish="stop")
    end = EndOfRequest("a", 1, 1, "stop", INBOX)
    rig.tick(0.5)
    assert rig.sent == [(INBOX, end)]
    rig.instance.receive(end)
    rig.tick(0.5)
    assert rig.sent == []


def test_held_slots_have_the_age_of_their_attempt() -> None:
    rig = Rig()
    rig.plan(plan((8, 1), (8, 1)))
    rig.held = (Held("a", 1, 16), Held("unknown", 1, 16))
    rig.time = 3.0
    rig.instance.on_ready(rig.started[0].run)
    rig.time = 5.0
    rig.compute()
    rig.instance.on_ready(rig.started[1].run)
    rig.time = 7.5
    assert rig.instance.facts().held == (Held("a", 1, 16, 4.5), Held("unknown", 1, 16))


def test_chunks_and_skips_for_another_life_are_dropped_and_counted() -> None:
    rig = Rig()
    chunks = plan((8, 1))
    for name, incarnation in (("m0", 2), ("m1", 1)):
        member = structs.replace(run_chunk(chunks, 0, 0).members[0], name=name)
        member = structs.replace(member, incarnation=incarnation)
        rig.instance.receive(run_chunk(chunks, 0, 0, (member,)), (bytes(32),))
    rig.instance.receive(Skip(2, 1, 1))
    rig.instance.receive(Skip(0, 1, 1))
    assert rig.started == []
    assert rig.instance.facts().received_through == 0
    assert b'tetris_messages_dropped_total{reason="incarnation"} 4.0' in rig.metrics.render()


def test_a_fenced_life_falls_silent_and_the_next_one_begins_with_turn_one() -> None:
    rig = Rig()
    rig.plan(plan((8, 1), (8, 2)))
    rig.plan(plan((8, 1)), request="failed", turn=3)
    rig.plan(plan((8, 1)), request="waiting", turn=4)
    rig.instance.receive(Grant("a", 1, 0, 0, 0, 1))
    rig.sent.clear()
    rig.instance.fence()
    rig.process.renew()
    rig.plan(plan((8, 1)), request="b")
    assert rig.aborted == [A]
    assert rig.computed() == [("a", 0)]
    rig.instance.on_ready(rig.started[0].run)
    rig.instance.on_layer(rig.started[0].run, 0, [Span(0, 16)])
    assert rig.instance.facts().running is None
    rig.fail(Aborted("over"))
    assert sorted(rig.released) == [A, Owner("failed", 1), Owner("waiting", 1)]
    assert rig.computed() == [("a", 0), ("b", 0)]
    assert [type(message) for _, message in rig.sent] == [Handshake]
    assert rig.parcels == []
    [handshake] = rig.of(Handshake)
    assert isinstance(handshake, Handshake)
    assert (handshake.request, handshake.sender.incarnation) == ("b", 2)
    assert rig.instance.facts().finished_through == 0
    rig.compute()
    assert rig.of(Ready) == [Ready("m0", 2, 1, 1)]
    assert rig.instance.facts().finished_through == 1


def test_a_fenced_life_forgets_what_it_had_to_report() -> None:
    rig = Rig()
    rig.plan(plan((8, 1)))
    rig.fail(OutOfPages("full"))
    rig.instance.fence()
    rig.process.renew()
    rig.tick(10.0)
    assert rig.sent == []


def test_reports_and_transfers_survive_a_new_router() -> None:
    rig = Rig()
    rig.plan(plan((8, 1)))
    rig.compute(first=5)
    rig.plan(plan((8, 2)), request="b", turn=2)
    rig.fail(OutOfPages("full"))
    rig.tick(0.5)
    rig.instance.welcome(Welcome(2, 1))
    rig.tick(0.5)
    assert [failed.request for failed in rig.of(Failed)] == ["b"]
    assert rig.released == [Owner("b", 1)]
    rig.hand_over()
    assert rig.released == [Owner("b", 1), A]


def test_handshakes_and_ends_go_to_the_broker_that_the_router_names() -> None:
    rig = Rig()
    rig.instance.welcome(Welcome(1, 1, brokers=(Brokerage("d", 1, "tcp://b:2"),)))
    rig.plan(plan((8, 1)))
    rig.fail(OutOfPages("full"))
    to_broker = [type(message) for endpoint, message in rig.sent if endpoint == "tcp://b:2"]
    assert to_broker == [Handshake, EndOfRequest]


def test_a_new_broker_hears_from_the_sender_that_a_transfer_is_through() -> None:
    rig = Rig()
    rig.plan(plan((8, 1)))
    rig.instance.receive(Grant("a", 1, 0, 0, 0, 1))
    rig.instance.welcome(Welcome(1, 1, brokers=(Brokerage("d", 1, "tcp://b:2"),)))
    rig.compute(first=5)
    rig.hand_over()
    assert ("tcp://b:2", Release("a", 1, 0, 0, "d", 1)) in rig.sent


def test_without_a_router_everything_is_let_go_of_and_the_router_told_if_it_comes_back() -> None:
    rig = Rig()
    rig.plan(plan((8, 1)), request="b")
    rig.plan(plan((8, 1)), turn=2)
    rig.instance.expire(61.0)
    rig.instance.expire(62.0)
    assert (rig.aborted, rig.released) == ([Owner("b", 1)], [A])
    rig.fail(Aborted("over"))
    assert rig.released == [A, Owner("b", 1)]
    assert [failed.request for failed in rig.of(Failed)] == ["b", "a"]


@pytest.mark.parametrize(
    ("place", "act"),
    [
        ("chunk.received", lambda rig: rig.plan(plan((8, 1)))),
        ("chunk.done", lambda rig: rig.compute()),
        ("token.first", lambda rig: rig.compute(first=5)),
    ],
)
def test_failpoints_are_hit_before_anybody_is_told(place: str, act: Callable[[Rig], None]) -> None:
    rig, seen = Rig(), []
    if place != "chunk.received":
        rig.plan(plan((8, 1)))
    kinds = (Handshake, ChunkDone, FirstToken)
    with failpoints.hooked(place, lambda: seen.append([len(rig.of(kind)) for kind in kinds])):
        act(rig)
    assert (
        seen
        == {
            "chunk.received": [[0, 0, 0]],
            "chunk.done": [[1, 0, 0]],
            "token.first": [[1, 1, 0]],
        }[place]
    )


def test_a_chunk_that_comes_after_the_end_is_void() -> None:
    rig = Rig()
    rig.instance.receive(Cancel("a", 1))
    rig.plan(plan((8, 2)))
    assert rig.started == []
    assert rig.of(Released) == [RELEASED]
    assert rig.instance.facts().finished_through == 1
    # A router that does not know of the end must not have the group wait for this member.
    [failed] = rig.of(Failed)
    assert isinstance(failed, Failed)
    assert (failed.retryable, failed.sender) == (True, INBOX)


def test_an_attempt_that_a_new_router_plans_again_fails_where_it_was_given_up() -> None:
    rig = Rig()
    rig.plan(plan((8, 2)))
    rig.plan(plan((8, 2)), epoch=2)  # its answer to the Submit had got lost
    rig.fail(Aborted("the attempt is over"))
    assert rig.computed() == [("a", 0)]
    [failed] = rig.of(Failed)
    assert isinstance(failed, Failed)
    assert (failed.request, failed.attempt, failed.retryable, failed.sender) == (
        "a",
        1,
        True,
        INBOX,
    )
    rig.tick(0.5)
    assert rig.of(Failed) == [failed]
    rig.instance.receive(EndOfRequest("a", 1, 0, "error"))
    rig.tick(0.5)
    assert rig.of(Failed) == []


def test_an_attempt_that_is_computed_already_is_not_computed_by_another_plan() -> None:
    rig = Rig()
    rig.plan(plan((8, 1)))
    rig.instance.receive(Grant("a", 1, 0, 0, 0, 1))
    rig.compute(first=5)
    rig.plan(plan((4, 1), (4, 1)), epoch=2)
    assert rig.computed() == [("a", 0)]
    assert rig.released == [A]
    [failed] = rig.of(Failed)
    assert isinstance(failed, Failed)
    assert failed.retryable
    assert rig.instance.facts().finished_through == 2
    rig.hand_over()
    assert len(rig.parcels) == 1  # nothing of it is sent any more


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
    what = "prefill of chunk 0 at m0"
    assert rig.of(Failed) == [Failed("a", 1, what, str(error), retryable, sender=INBOX)]
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
    assert rig.aborted == [A]
    rig.compute()
    assert rig.released == [A]
    assert rig.computed() == [("a", 0), ("b", 0)]
    rig.compute()
    assert rig.instance.facts().finished_through == 1
    rig.plan(plan((8, 1)), request="c", turn=2, epoch=1)
    assert rig.computed() == [("a", 0), ("b", 0)]


def test_an_attempt_that_a_new_router_plans_again_begins_anew_with_the_next() -> None:
    rig = Rig()
    rig.plan(plan((8, 1)))
    rig.compute(first=5)
    # Its KV is on its way when a Submit comes that was meant for the old router.
    rig.plan(plan((4, 1), (4, 1)), epoch=2)
    assert rig.computed() == [("a", 0)]
    [failed] = rig.of(Failed)
    assert isinstance(failed, Failed)
    assert failed.retryable
    assert rig.released == [A]
    assert rig.instance.facts().finished_through == 2
    rig.instance.receive(Grant("a", 1, 0, 0, 0, 1))
    assert rig.parcels == []


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


SCORES = Scores(1, np.zeros(2, np.float32), np.zeros((2, 0), np.int32), np.zeros((2, 0)))


def scoring(*ends: ControlMessage) -> Rig:
    """One chunk whose prompt is scored, and that is computed when these have come."""
    rig = Rig()
    run = run_chunk(plan((8, 1)), 0, 0, request="a", prompt_logprobs=0)
    rig.instance.receive(run, (np.arange(8, dtype="<i4").tobytes(),))
    for end in ends:
        rig.instance.receive(end)
    if not rig.aborted:
        rig.instance.on_done(
            run, ChunkResult(None, 1.0, 0.5, 0.5, 0.25, Moments(*4 * [0.0]), 0.5, (SCORES,))
        )
    return rig


@pytest.mark.parametrize("reason", ["stop", "length"])
def test_a_prompt_is_scored_to_its_end_also_when_another_member_has_ended_the_request(
    reason: str,
) -> None:
    end = EndOfRequest("a", 1, 1, reason)
    rig = scoring(end)
    assert rig.aborted == []
    assert rig.released == [A]
    assert [message.start for message in rig.of(PromptScores)] == [1]
    rig.instance.receive(end)
    rig.tick(0.5)
    assert [message.start for message in rig.of(PromptScores)] == [1]
    rig.instance.receive(Scored("a", 1, 1))
    rig.tick(0.5)
    assert rig.of(PromptScores) == []


@pytest.mark.parametrize("end", [Cancel("a", 1), EndOfRequest("a", 1, 0, "abort")], ids=str)
def test_nobody_scores_the_prompt_of_an_attempt_that_was_given_up(end: ControlMessage) -> None:
    rig = scoring(end)
    assert rig.aborted == [A]
    rig = scoring()
    rig.instance.receive(end)
    rig.tick(0.5)
    assert rig.of(PromptScores) == []
