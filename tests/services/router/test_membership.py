import pytest

from common.messages import (
    LOST_MEMBER,
    UNKNOWN_MEMBER,
    Admitted,
    Brokerage,
    Cancel,
    Drain,
    Draining,
    EndOfRequest,
    Failed,
    GatewayFacts,
    Goodbye,
    Heartbeat,
    Held,
    Leave,
    Refused,
    RunChunk,
    Welcome,
)
from tests.services.router.mesh import Mesh, hello


def welcomes(mesh):
    """The last welcome of each inbox."""
    return dict(mesh.sent_of(Welcome))


def silent(mesh, name, seconds=2.0):
    """Everybody but one member beats for so long."""
    others = [one for one in mesh.router.books.registry.members if one.name != name]
    until = mesh.now + seconds
    while mesh.now < until:
        mesh.now += 0.25
        for member in others:
            member.seen = mesh.now
        mesh.router.tick(mesh.now)


def ends_to(mesh):
    return {to for to, _ in mesh.sent_of(EndOfRequest)}


# Death


@pytest.mark.parametrize(
    ("name", "survivors"),
    [("p0", {"in-p1", "in-d", "in-b"}), ("d", {"in-p0", "in-p1", "in-b"})],
)
def test_silence_loses_a_worker_and_fails_what_needs_it(name, survivors):
    mesh = Mesh()
    mesh.submit(forced_plan="2")
    mesh.router.tick(0.0)
    silent(mesh, name, 1.5)
    assert mesh.sent_of(Failed) == []
    silent(mesh, name, 0.25)
    ((to, failed),) = mesh.sent_of(Failed)
    assert (to, failed.request, failed.retryable, failed.evicted) == ("in-g", "r", True, False)
    assert ends_to(mesh) == survivors
    assert mesh.router.books.registry.find(name) is None
    assert not mesh.router.books.placement.owners
    assert not list(mesh.router.books.pool.tasks)


def test_a_waiting_request_needs_no_worker():
    mesh = Mesh(num_prefill=1)
    mesh.submit("first", 8000)
    mesh.submit("second", 8000)
    mesh.router.lose("p0", "test", 1.0)
    assert [failed.request for _, failed in mesh.sent_of(Failed)] == ["first"]
    assert mesh.router.books.requests.num_waiting == 1


def test_an_admitted_attempt_outlives_its_prefill_and_its_broker_but_not_its_decode():
    mesh = Mesh()
    mesh.submit()
    mesh.give(Admitted("d", 1, "r", 1, 1024))
    for name in ("p0", "p1", "b"):
        mesh.router.lose(name, "test", 1.0)
    assert mesh.sent_of(Failed) == []
    mesh.router.lose("d", "test", 1.0)
    assert len(mesh.sent_of(Failed)) == 1
    assert mesh.router.books.quiescent()


def test_an_attempt_whose_kv_is_on_its_way_survives_the_broker():
    mesh = Mesh()
    mesh.give(hello("kv-transfer", "c"))
    mesh.submit(forced_plan="2")
    mesh.sent.clear()
    mesh.router.lose("b", "test", 1.0)
    assert mesh.sent_of(Failed) == mesh.sent_of(EndOfRequest) == []
    assert welcomes(mesh)["in-d"].broker == "in-c"
    assert welcomes(mesh)["in-p1"].brokers == (Brokerage("d", 1, "in-c"),)
    request = mesh.router.books.requests.find("r")
    assert request.broker == "c"
    mesh.give(EndOfRequest("r", 1, 5, "stop"))
    assert ends_to(mesh) == {"in-p0", "in-p1", "in-d", "in-c"}


def test_without_another_broker_requests_wait_for_the_next():
    mesh = Mesh()
    mesh.submit("running")
    mesh.sent.clear()
    mesh.router.lose("b", "test", 1.0)
    assert welcomes(mesh)["in-d"].broker is None
    assert welcomes(mesh)["in-p0"].brokers == ()
    mesh.submit("waiting")
    assert mesh.sent_of(RunChunk) == []
    mesh.give(hello("kv-transfer", "b", 2))
    assert mesh.sent_of(RunChunk)[-1][1].target.broker == "in-b-new"
    assert mesh.router.books.requests.find("running").broker == "b"


def test_a_lost_gateway_takes_its_attempts_along_and_may_ask_for_them():
    mesh = Mesh(num_prefill=1)
    mesh.submit("running", 8000)
    mesh.submit("waiting", 8000)
    mesh.router.tick(0.0)
    silent(mesh, "g")
    assert mesh.sent_of(Failed) == []
    assert ends_to(mesh) == {"in-p0", "in-d", "in-b"}
    assert len(mesh.router.books.requests) == 0
    mesh.gateway_beat(("running", 1), ("waiting", 1))
    assert mesh.sent[-1] == ("in-g", Refused(1, LOST_MEMBER), ())
    # It lives on as a new life, and what it still has open becomes new attempts.
    mesh.give(hello("gateway", "g", 2))
    mesh.gateway_beat(("running", 1), ("waiting", 1), incarnation=2)
    assert [(to, one.request, one.retryable) for to, one in mesh.sent_of(Failed)] == [
        ("in-g-new", "running", True),
        ("in-g-new", "waiting", True),
    ]


def test_what_a_new_life_of_a_gateway_submits_before_its_hello_stays():
    mesh = Mesh()
    new = hello("gateway", "g", 2)
    mesh.submit("old")
    mesh.submit("new", reply=new.peer)
    mesh.give(new)
    assert [request.owner.request for request in mesh.router.books.requests.live] == ["new"]


def test_a_submit_of_a_lost_life_is_not_taken():
    mesh = Mesh()
    mesh.router.lose("g", "test", 1.0)
    mesh.submit()
    assert len(mesh.router.books.requests) == 0


def test_requests_of_a_gateway_that_never_joins_end_after_a_grace():
    mesh = Mesh()
    mesh.submit(reply=hello("gateway", "ghost").peer)
    for _ in range(5):
        assert len(mesh.router.books.requests) == 1
        mesh.beats()
    assert len(mesh.router.books.requests) == 0
    assert {"in-d", "in-b"} <= ends_to(mesh)


def test_a_lost_life_is_told_so_whatever_it_says():
    mesh = Mesh()
    mesh.router.lose("p0", "test", 1.0)
    mesh.sent.clear()
    mesh.beat("p0")
    mesh.give(Leave("p0", 1))
    mesh.give(hello("prefill-worker", "p0"))
    assert [(to, message) for to, message, _ in mesh.sent] == 3 * [
        ("in-p0", Refused(1, LOST_MEMBER))
    ]
    mesh.give(hello("prefill-worker", "p0", 2))
    assert welcomes(mesh)["in-p0-new"].incarnation == 2
    mesh.give(hello("prefill-worker", "p0"))
    assert "newer process" in mesh.sent_of(Refused)[-1][1].reason
    mesh.beat("p0")
    assert mesh.sent_of(Refused)[-1] == ("in-p0", Refused(1, LOST_MEMBER))


def test_an_older_life_never_replaces_a_newer_one():
    mesh = Mesh()
    mesh.give(hello("decode-worker", "e", 2))
    mesh.give(hello("decode-worker", "e", 1))
    assert "newer process" in mesh.sent_of(Refused)[-1][1].reason
    mesh.give(Heartbeat("decode-worker", "e", 1, GatewayFacts(0), "in-e"))
    assert mesh.sent_of(Refused)[-1][1].reason == UNKNOWN_MEMBER


def test_nobody_is_silent_while_the_router_stands_still():
    mesh = Mesh()
    mesh.router.tick(0.0)
    mesh.now = 10.0
    mesh.router.tick(mesh.now)
    assert len(mesh.router.books.registry.members) == 5
    silent(mesh, "p0", 1.5)
    assert len(mesh.router.books.registry.members) == 5
    silent(mesh, "p0", 0.25)
    assert len(mesh.router.books.registry.members) == 4


def test_a_repeated_hello_is_a_sign_of_life():
    mesh = Mesh()
    mesh.router.tick(0.0)
    silent(mesh, "p0", 1.5)
    mesh.give(hello("prefill-worker", "p0"))
    silent(mesh, "p0", 1.5)
    assert mesh.router.books.registry.find("p0") is not None


# Heartbeats


def test_every_heartbeat_renews_the_welcome():
    mesh = Mesh(num_prefill=1)
    mesh.beats()
    brokers = (Brokerage("d", 1, "in-b"),)
    assert welcomes(mesh) == {
        "in-p0": Welcome(77, 1, None, brokers),
        "in-b": Welcome(77, 1),
        "in-d": Welcome(77, 1, "in-b"),
        "in-g": Welcome(77, 1),
    }


# Leaving


def test_a_leaving_prefill_worker_finishes_what_it_has_and_gets_nothing_new():
    mesh = Mesh()
    mesh.submit("r", forced_plan="2")
    mesh.give(Leave("p0", 1))
    mesh.beat("p0", received=1, held=(Held("r", 1, 512),))
    mesh.sent.clear()
    mesh.submit("s")
    assert {to for to, _ in mesh.sent_of(RunChunk)} == {"in-p1"}
    mesh.beat("p0", received=1, finished=1)
    # Somebody still needs it, though it holds nothing.
    assert mesh.sent_of(Goodbye) == []
    mesh.give(Admitted("d", 1, "r", 1, 1024))
    mesh.give(Leave("p0", 1))
    assert mesh.sent_of(Goodbye) == []
    mesh.beat("p0", received=1, finished=1)
    assert mesh.sent_of(Goodbye) == [("in-p0", Goodbye(1))]
    assert mesh.router.books.registry.find("p0") is None
    assert mesh.sent_of(Failed) == []
    # A lost goodbye is said again.
    mesh.give(Leave("p0", 1))
    mesh.beat("p0", received=1, finished=1)
    assert len(mesh.sent_of(Goodbye)) == 3


def test_a_leaving_decode_worker_takes_nothing_new_and_goes_when_it_is_empty():
    mesh = Mesh()
    mesh.give(hello("decode-worker", "e", total=16384))
    mesh.give(Leave("d", 1))
    for name in ("r", "s", "t"):
        mesh.submit(name, 100)
    assert {run.target.name for _, run in mesh.sent_of(RunChunk)} == {"e"}
    mesh.decode_beat(1, (Held("x", 1, 16, admitted=True),))
    assert mesh.sent_of(Goodbye) == []
    mesh.decode_beat()
    assert mesh.sent_of(Goodbye) == [("in-d", Goodbye(1))]
    assert len(mesh.router.books.requests) == 3


def test_a_leaving_gateway_finishes_its_streams():
    mesh = Mesh()
    mesh.submit("r")
    mesh.give(Leave("g", 1))
    mesh.give(Failed("r", 1, "ring", "timeout", True))
    mesh.submit("r", attempt=2)
    assert mesh.sent_of(RunChunk)[-1][1].attempt == 2
    mesh.gateway_beat(("r", 2), streams=1)
    mesh.gateway_beat(streams=0)
    assert mesh.sent_of(Goodbye) == []
    mesh.give(EndOfRequest("r", 2, 5, "stop"))
    mesh.gateway_beat(streams=0)
    assert mesh.sent_of(Goodbye) == [("in-g", Goodbye(1))]


def test_a_leaving_broker_hands_its_decode_instances_over():
    mesh = Mesh()
    mesh.give(hello("kv-transfer", "c"))
    mesh.submit()
    mesh.sent.clear()
    mesh.give(Leave("b", 1))
    assert welcomes(mesh)["in-d"].broker == "in-c"
    assert mesh.sent_of(Goodbye) == [("in-b", Goodbye(1))]
    # The last one goes at once, too; the next takes over from the senders.
    mesh.give(Leave("c", 1))
    assert mesh.sent_of(Goodbye)[-1] == ("in-c", Goodbye(1))
    assert welcomes(mesh)["in-d"].broker is None
    assert mesh.sent_of(Failed) == mesh.sent_of(Cancel) == []


def test_a_stranger_that_leaves_is_nobody():
    mesh = Mesh()
    ignored = mesh.router.num_ignored
    mesh.give(Leave("p0", 9))
    assert mesh.sent == []
    assert mesh.router.num_ignored == ignored + 1


def test_an_operator_drains_a_member_that_then_asks_to_leave():
    mesh = Mesh()
    mesh.give(Drain(3, "in-g", "p0"))
    assert mesh.sent_of(Draining) == [("in-g", Draining(3))]
    assert welcomes(mesh)["in-p0"].leave
    mesh.beat("p0")
    # It may not have heard of it: first it has to ask.
    assert mesh.sent_of(Goodbye) == []
    assert welcomes(mesh)["in-p0"].leave
    mesh.submit()
    assert {to for to, _ in mesh.sent_of(RunChunk)} == {"in-p1"}
    mesh.give(Leave("p0", 1))
    mesh.beat("p0")
    assert mesh.sent_of(Goodbye) == [("in-p0", Goodbye(1))]
    mesh.give(hello("prefill-worker", "p0", 2))
    assert not welcomes(mesh)["in-p0-new"].leave


@pytest.mark.parametrize(("name", "reason"), [("nobody", "no member"), ("router", "the router")])
def test_what_cannot_be_drained_is_named(name, reason):
    mesh = Mesh()
    mesh.give(Drain(3, "in-g", name))
    ((_, draining),) = mesh.sent_of(Draining)
    assert draining.query == 3
    assert reason in draining.refusal
