from array import array
from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import structs

from common.messages import (
    UNKNOWN_MEMBER,
    Accepted,
    Admitted,
    Brokerage,
    Cancel,
    ClusterState,
    ControlMessage,
    DecodeFacts,
    DecodeStats,
    Ending,
    EndOfRequest,
    Failed,
    GatewayFacts,
    Heartbeat,
    Held,
    Ready,
    Refused,
    Rejected,
    Released,
    RunChunk,
    Running,
    Sampling,
    Skip,
    Submit,
    Welcome,
)
from common.wire import CONTROL
from tests.common.test_wire import STRATEGY_OF
from tests.services.router.mesh import GATEWAY, Mesh, done, hello

BROKERS = (Brokerage("d", 1, "in-b"),)


def test_a_request_goes_its_whole_way_and_leaves_nothing():
    mesh = Mesh()
    mesh.submit(length=1000, forced_plan="1:400,2")
    runs = mesh.sent_of(RunChunk)
    assert [(to, run.index, run.rank) for to, run in runs] == [
        ("in-p0", 0, 0),
        ("in-p0", 1, 0),
        ("in-p1", 1, 1),
    ]
    assert [run.turn for _, run in runs] == [1, 2, 1]
    assert [run.seq for _, run in runs] == [1, 2, 2]
    run = runs[0][1]
    assert (run.target.link, run.target.broker, run.router) == ("link-d", "in-b", "in-router")
    assert [member.ring for member in run.members] == ["ring-p0", "ring-p1"]
    assert (run.epoch, run.gateway) == (77, GATEWAY)
    frames = [frames[0] for _, message, frames in mesh.sent if isinstance(message, RunChunk)]
    # A look-ahead id follows each chunk but the last.
    assert array("i", frames[0]).tolist() == list(range(401))
    assert array("i", frames[1]).tolist() == list(range(400, 1000))
    for to, message in runs:
        mesh.give(Ready(to[3:], 1, message.seq, message.turn))
        mesh.give(done(message, to[3:]))
    assert not list(mesh.router.books.pool.tasks)
    for name in mesh.prefill:
        mesh.give(Released(name, 1, "r", 1))
    mesh.give(Admitted("d", 1, "r", 1, 1008))
    assert not mesh.router.books.quiescent()
    mesh.give(EndOfRequest("r", 1, 10, "length"))
    assert mesh.router.books.quiescent()
    ends = mesh.sent_of(EndOfRequest)
    assert [to for to, _ in ends] == ["in-p0", "in-p1", "in-d", "in-b"]
    mesh.give(EndOfRequest("r", 1, 10, "length"))
    assert len(mesh.sent_of(EndOfRequest)) == 4


def test_a_repeated_submit_gets_the_same_answer_and_no_second_plan():
    mesh = Mesh()
    submit = mesh.submit()
    ((_, first),) = mesh.sent_of(Accepted)
    ttft = mesh.sent_of(RunChunk)[0][1].predicted
    assert first.predicted_ttft == pytest.approx(ttft)
    num_runs = len(mesh.sent_of(RunChunk))
    mesh.now = 0.75 * ttft
    mesh.give(submit, bytes(4 * submit.num_tokens))
    # Seconds from now; none are left when it is late.
    assert mesh.sent_of(Accepted)[-1][1].predicted_ttft == pytest.approx(0.25 * ttft)
    mesh.now = 5.0
    mesh.give(submit, bytes(4 * submit.num_tokens))
    assert mesh.sent_of(Accepted)[-1][1].predicted_ttft == 0
    assert len(mesh.sent_of(RunChunk)) == num_runs
    mesh.give(Cancel("r", 1))
    mesh.sent.clear()
    mesh.give(submit, bytes(4 * submit.num_tokens))
    assert mesh.sent == []


def test_a_request_waits_for_memory_and_starts_when_it_is_released():
    mesh = Mesh(num_prefill=1)
    mesh.submit("first", 8000)
    mesh.submit("second", 8000)
    told = [accepted.predicted_ttft for _, accepted in mesh.sent_of(Accepted)]
    # Behind the first, as long as that takes.
    assert told[1] == pytest.approx(2 * told[0])
    assert {run.request for _, run in mesh.sent_of(RunChunk)} == {"first"}
    mesh.give(Released("p0", 1, "first", 1))
    assert mesh.sent_of(RunChunk)[-1][1].request == "second"
    assert mesh.sent_of(Accepted)[-1][1].predicted_ttft > 0


def test_a_request_waits_for_decode_slots_and_starts_with_new_statistics():
    mesh = Mesh(num_prefill=4)
    mesh.submit("first", 16000)
    mesh.submit("second", 8000)
    assert mesh.sent_of(RunChunk)[-1][1].request == "first"
    mesh.give(Admitted("d", 1, "first", 1, 16016))
    mesh.give(EndOfRequest("first", 1, 10, "stop"))
    assert mesh.sent_of(RunChunk)[-1][1].request == "first"
    mesh.give(DecodeStats("d", 1, DecodeFacts(16384, 16384, 0, 5)))
    assert mesh.sent_of(RunChunk)[-1][1].request == "second"


def test_a_full_queue_is_refused_with_a_time_to_come_back():
    mesh = Mesh(num_prefill=1, max_queue=1)
    for name in ("running", "waiting", "too-many"):
        mesh.submit(name, 8000)
    ((to, rejected),) = mesh.sent_of(Rejected)
    assert (to, rejected.request, rejected.status) == ("in-g", "too-many", 503)
    assert rejected.retry_after > 0
    assert "max_queue" in rejected.reason


@pytest.mark.parametrize(
    ("length", "forced", "reason"),
    [
        (100_001, None, "max_model_len"),
        (16_500, None, "prefill.kv_tokens"),
        (16_384, None, "decode.kv_tokens"),
        (100, "2,1", "shrink"),
        (100, "4", "there are 2"),
        (100, "x", "positive integer"),
    ],
)
def test_what_can_never_run_is_rejected_with_its_reason(length, forced, reason):
    mesh = Mesh()
    mesh.submit(length=length, forced_plan=forced)
    ((_, rejected),) = mesh.sent_of(Rejected)
    assert rejected.status == 400
    assert reason in rejected.reason
    assert mesh.router.books.quiescent()


def test_ids_that_do_not_match_the_header_are_rejected():
    mesh = Mesh()
    mesh.give(Submit("r", 1, GATEWAY, 10, 0, Sampling(), Ending(1)), b"123")
    assert mesh.sent_of(Rejected)[0][1].status == 400


def test_cancel_tells_everyone_and_skips_what_has_not_arrived():
    mesh = Mesh()
    mesh.submit(forced_plan="1,2")
    mesh.beat("p0", received=1)
    mesh.give(Cancel("r", 1))
    assert [to for to, _ in mesh.sent_of(Cancel)] == ["in-p0", "in-p1", "in-d", "in-b"]
    assert sorted(mesh.sent_of(Skip)) == [("in-p0", Skip(1, 77, 2)), ("in-p1", Skip(1, 77, 1))]
    books = mesh.router.books
    assert not list(books.pool.tasks)
    assert not books.placement.owners
    # Slots stay booked until the members let go; a lost Released is repaired by a heartbeat.
    assert books.memory.owners
    mesh.give(Released("p0", 1, "r", 1))
    mesh.beat("p1", received=1, finished=1)
    assert books.quiescent()


def test_a_waiting_request_is_cancelled_without_a_word():
    mesh = Mesh(num_prefill=1)
    mesh.submit("first", 8000)
    mesh.submit("second", 8000)
    mesh.sent.clear()
    mesh.give(Cancel("second", 1))
    assert mesh.sent == []
    assert mesh.router.books.requests.num_waiting == 0


def test_lost_turns_are_repeated_by_heartbeats_until_received():
    mesh = Mesh(num_prefill=1)
    mesh.submit()
    mesh.sent.clear()
    mesh.now = 1.0
    mesh.beat("p0")
    assert len(mesh.sent_of(RunChunk)) == 1
    to, run, frames = mesh.sent[-1]
    assert (to, run.turn, len(frames[0])) == ("in-p0", 1, 4000)
    mesh.now = 2.0
    mesh.beat("p0", received=1)
    assert len(mesh.sent_of(RunChunk)) == 1


def test_turns_of_an_older_epoch_acknowledge_nothing():
    mesh = Mesh(num_prefill=1)
    mesh.submit()
    mesh.now = 1.0
    mesh.sent.clear()
    mesh.beat("p0", received=50, finished=50, epoch=76)
    assert len(mesh.sent_of(RunChunk)) == 1
    assert len(list(mesh.router.books.pool.tasks)) == 1


def test_heartbeats_replace_lost_ready_and_done():
    mesh = Mesh(num_prefill=1)
    mesh.submit(length=8000)
    run = mesh.sent_of(RunChunk)[0][1]
    mesh.now = 0.1
    mesh.beat("p0", 1, 0, Running(run.seq, 3), (Held("r", 1, 8000),))
    assert mesh.router.books.pool.delays(0.2)["p0"] == pytest.approx(run.predicted - 0.1)
    mesh.beat("p0", 1, 1, None, (Held("r", 1, 8000),))
    assert mesh.router.books.pool.delays(0.2)["p0"] == 0
    assert mesh.router.books.memory.owners


def test_a_failure_reaches_the_gateway_and_frees_the_rest():
    mesh = Mesh()
    mesh.submit()
    failed = Failed("r", 1, "ring", "timeout", True)
    mesh.give(failed)
    assert mesh.sent_of(Failed) == [("in-g", failed)]
    assert {"in-d", "in-b"} <= {to for to, _ in mesh.sent_of(EndOfRequest)}
    mesh.submit(attempt=2)
    assert mesh.sent_of(RunChunk)[-1][1].attempt == 2


def test_a_new_attempt_ends_the_one_before_it():
    mesh = Mesh()
    mesh.submit(attempt=1)
    mesh.submit(attempt=2)
    assert {message for _, message in mesh.sent_of(Cancel)} == {Cancel("r", 1)}
    mesh.submit(attempt=1)
    assert mesh.router.books.requests.find("r").owner.attempt == 2


def test_a_replaced_worker_fails_its_requests_and_starts_afresh():
    mesh = Mesh(num_prefill=1)
    mesh.submit()
    mesh.give(hello("prefill-worker", "p0", 2))
    assert mesh.sent_of(Failed)[0][1].retryable
    assert mesh.sent_of(Welcome)[-1] == ("in-p0-new", Welcome(77, 2, None, BROKERS))
    assert mesh.router.books.quiescent()
    mesh.submit(attempt=2)
    to, run = mesh.sent_of(RunChunk)[-1]
    assert (to, run.turn, run.members[0].incarnation) == ("in-p0-new", 1, 2)
    mesh.give(hello("prefill-worker", "p0", 1))
    assert "newer process" in mesh.sent_of(Refused)[-1][1].reason
    ignored = mesh.router.num_ignored
    mesh.give(done(run, "p0"))
    assert mesh.router.num_ignored == ignored + 1


def test_a_repeated_hello_is_welcomed_again_and_changes_nothing():
    mesh = Mesh()
    mesh.submit()
    mesh.give(hello("prefill-worker", "p0"))
    mesh.give(hello("decode-worker", "d"))
    assert mesh.sent_of(Welcome) == [
        ("in-p0", Welcome(77, 1, None, BROKERS)),
        ("in-d", Welcome(77, 1, "in-b")),
    ]
    assert len(mesh.router.books.requests) == 1


def test_an_unknown_member_is_asked_for_a_hello():
    mesh = Mesh()
    mesh.give(Heartbeat("gateway", "g", 5, GatewayFacts(0), "in-other"))
    assert mesh.sent == [("in-other", Refused(5, UNKNOWN_MEMBER), ())]


def test_gateways_learn_the_state_with_each_heartbeat():
    mesh = Mesh(num_prefill=3)
    mesh.give(Heartbeat("gateway", "g", 1, GatewayFacts(0), "in-g"))
    assert mesh.sent == [
        ("in-g", Welcome(77, 1), ()),
        ("in-g", ClusterState(77, 3, 1, 1, 0), ()),
    ]


def test_messages_of_another_role_are_ignored():
    mesh = Mesh()
    before = mesh.router.num_ignored
    mesh.give(Ready("d", 1, 1, 1))
    mesh.give(DecodeStats("p0", 1, DecodeFacts(1, 1, 0, 0)))
    mesh.give(Admitted("d", 1, "nobody", 1, 5))
    mesh.give(Heartbeat("gateway", "g", 1, DecodeFacts(1, 1, 0, 0)))
    mesh.give(Failed("nobody", 1, "what", "why", True))
    mesh.give(Skip(1, 1, 1))
    assert mesh.router.num_ignored == before + 6


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_whatever_comes_the_router_goes_on_and_says_only_what_others_take(data):
    mesh = Mesh(max_ttft=data.draw(st.sampled_from([0.05, 300.0])))
    mesh.submit("r")
    for _ in range(data.draw(st.integers(1, 5))):
        cls = data.draw(st.sampled_from([*get_args(ControlMessage), Heartbeat, Submit]))
        message = data.draw(STRATEGY_OF[cls])
        known = {"name": st.sampled_from(["p0", "d", "b", "g"]), "request": st.just("r")}
        for field in known.keys() & set(message.__struct_fields__):
            message = structs.replace(message, **{field: data.draw(known[field])})
        if "incarnation" in message.__struct_fields__:
            message = structs.replace(message, incarnation=1)
        mesh.give(message, *[b"\1\0\0\0"] * cls.num_frames)
        mesh.now += data.draw(st.sampled_from([0.0, 0.6, 30.0]))
        mesh.gateway_beat()
        mesh.router.tick(mesh.now)
        mesh.router.tell(mesh.now)
    for _, message, frames in mesh.sent:
        assert CONTROL.decode(CONTROL.encode(message, frames))[0] == message
