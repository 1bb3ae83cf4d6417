from array import array

import pytest

from common.messages import (
    Accepted,
    Admitted,
    Cancel,
    EndOfRequest,
    Failed,
    GatewayFacts,
    Heartbeat,
    Held,
    Rejected,
    RunChunk,
    Submit,
)
from tests.services.router.mesh import GATEWAY, Mesh, hello

GRACE = 2.0


def decoding(mesh, name="r", attempt=1):
    mesh.decode_beat(1, (Held(name, attempt, 1024, 1.0, True),))


# Gateways


def test_an_end_that_the_gateway_has_missed_is_said_again():
    mesh = Mesh()
    mesh.submit("failed")
    mesh.submit("ended")
    failed = Failed("failed", 1, "ring", "timeout", True)
    end = EndOfRequest("ended", 1, 7, "length")
    mesh.give(failed)
    mesh.give(end)
    mesh.sent.clear()
    mesh.gateway_beat(("failed", 1), ("ended", 1))
    assert mesh.sent_of(Failed) == [("in-g", failed)]
    assert mesh.sent_of(EndOfRequest) == [("in-g", end)]
    mesh.gateway_beat(("failed", 2))
    assert len(mesh.sent_of(Failed)) == 1


def test_an_attempt_that_decode_carries_on_is_adopted_whoever_says_it_first():
    for first in ("decode", "gateway"):
        mesh = Mesh()
        if first == "gateway":
            mesh.gateway_beat(("r", 1))
        decoding(mesh)
        mesh.gateway_beat(("r", 1))
        request = mesh.router.books.requests.find("r")
        assert (request.decode, request.admitted, request.gateway) == ("d", True, GATEWAY)
        # Long after, both still have it and nothing happens.
        for _ in range(10):
            mesh.now += 0.5
            decoding(mesh)
            mesh.gateway_beat(("r", 1))
        assert mesh.sent_of(Failed) == mesh.sent_of(EndOfRequest) == []
        mesh.give(EndOfRequest("r", 1, 9, "stop", "in-d"))
        assert mesh.sent_of(EndOfRequest) == [("in-d", EndOfRequest("r", 1, 9, "stop"))]
        assert mesh.router.books.quiescent()


def test_an_adopted_attempt_fails_with_its_decode_instance_and_goes_on_as_the_next():
    mesh = Mesh()
    decoding(mesh)
    mesh.gateway_beat(("r", 1))
    mesh.router.lose("d", "test", 1.0)
    ((to, failed),) = mesh.sent_of(Failed)
    assert (to, failed.attempt, failed.retryable) == ("in-g", 1, True)
    mesh.give(hello("decode-worker", "d", 2, total=16384))
    mesh.submit(attempt=2)
    assert mesh.sent_of(RunChunk)[-1][1].attempt == 2


def test_a_submit_of_what_decode_carries_on_already_is_no_second_run():
    mesh = Mesh()
    decoding(mesh)
    mesh.submit()
    assert mesh.sent_of(Accepted) == [("in-g", Accepted("r", 1))]
    assert mesh.sent_of(RunChunk) == []
    # A younger attempt ends the adopted one.
    mesh.submit(attempt=2)
    assert mesh.sent_of(Cancel) == [("in-d", Cancel("r", 1))]
    assert mesh.sent_of(RunChunk)


@pytest.mark.parametrize("holder", ["prefill", "decode"])
def test_an_attempt_that_is_handed_over_for_an_older_router_is_not_planned_again(holder):
    for is_admitted in (True, False):
        mesh = Mesh()
        for beat in range(6):
            held = (Held("r", 1, 1024, 1.0),)
            if is_admitted and beat == 3:
                decoding(mesh)
            elif holder == "decode":
                mesh.decode_beat(0, held)
            else:
                mesh.beat("p0", held=held, epoch=76)
            mesh.submit()
            mesh.now += 0.5
        assert mesh.sent_of(RunChunk) == []
        assert bool(mesh.sent_of(Accepted)) == is_admitted
        assert bool(mesh.sent_of(Failed)) == (not is_admitted)


def test_an_attempt_that_nobody_carries_on_fails_after_a_grace():
    mesh = Mesh()
    for _ in range(4):
        mesh.gateway_beat(("r", 1))
        mesh.now += 0.5
    assert mesh.sent_of(Failed) == []
    mesh.gateway_beat(("r", 1))
    ((to, failed),) = mesh.sent_of(Failed)
    assert (to, failed.request, failed.attempt, failed.retryable) == ("in-g", "r", 1, True)
    mesh.gateway_beat(("r", 1))
    assert len(mesh.sent_of(Failed)) == 2
    mesh.submit(attempt=2)
    assert mesh.sent_of(RunChunk)


def test_kv_that_has_not_arrived_completely_is_not_adopted():
    mesh = Mesh()
    for _ in range(5):
        mesh.decode_beat(0, (Held("r", 1, 1024),))
        mesh.gateway_beat(("r", 1))
        mesh.now += 0.5
    assert len(mesh.sent_of(Failed)) == 1
    assert ("in-d", EndOfRequest("r", 1, 0, "error")) in mesh.sent_of(EndOfRequest)


def test_what_its_gateway_no_longer_has_is_cancelled_after_a_grace():
    mesh = Mesh()
    mesh.submit()
    for _ in range(4):
        mesh.gateway_beat()
        mesh.now += 0.5
    assert len(mesh.router.books.requests) == 1
    mesh.gateway_beat()
    assert len(mesh.router.books.requests) == 0
    assert {to for to, _ in mesh.sent_of(EndOfRequest)} >= {"in-d", "in-b"}
    assert mesh.sent_of(Failed) == []


def test_a_gateway_that_still_submits_has_its_attempt():
    mesh = Mesh()
    submit = mesh.submit()
    ids = array("i", range(1000)).tobytes()
    for _ in range(20):
        mesh.gateway_beat()
        mesh.give(submit, ids)
        mesh.now += 0.5
    assert len(mesh.router.books.requests) == 1
    mesh.gateway_beat(("r", 1))
    assert mesh.router.books.sightings.owners == set()


def test_what_other_gateways_have_is_not_missed_by_this_one():
    mesh = Mesh()
    other = hello("gateway", "h")
    mesh.give(other)
    mesh.submit(reply=other.peer)
    for _ in range(8):
        mesh.gateway_beat()
        mesh.give(Heartbeat("gateway", "h", 1, GatewayFacts(1), None))
        mesh.submit(reply=other.peer)
        mesh.now += 0.5
    assert len(mesh.router.books.requests) == 1


# Workers and brokers


def test_whoever_holds_what_is_over_lets_go_at_once():
    mesh = Mesh()
    mesh.submit()
    mesh.give(EndOfRequest("r", 1, 4, "length"))
    mesh.sent.clear()
    held = (Held("r", 1, 16),)
    mesh.beat("p1", received=1, finished=1, held=held)
    mesh.decode_beat(0, held)
    mesh.broker_beat(held)
    end = EndOfRequest("r", 1, 4, "length")
    assert mesh.sent_of(EndOfRequest) == [("in-p1", end), ("in-d", end), ("in-b", end)]


def test_what_a_newer_attempt_has_replaced_is_over():
    mesh = Mesh()
    mesh.submit(attempt=3)
    mesh.sent.clear()
    mesh.broker_beat((Held("r", 2, 1), Held("r", 3, 1)))
    assert mesh.sent_of(EndOfRequest) == [("in-b", EndOfRequest("r", 2, 0, "abort"))]


def test_orphans_end_after_a_grace_and_for_everyone():
    mesh = Mesh()
    held = (Held("r", 1, 16),)
    for _ in range(4):
        for beat in (mesh.broker_beat, lambda held: mesh.beat("p0", held=held)):
            beat(held)
        mesh.now += 0.5
    assert mesh.sent_of(EndOfRequest) == []
    mesh.broker_beat(held)
    mesh.beat("p0", held=held)
    assert {to for to, _ in mesh.sent_of(EndOfRequest)} == {"in-b", "in-p0"}
    # Its gateway comes late, and starts a new attempt at once.
    mesh.gateway_beat(("r", 1))
    assert mesh.sent_of(Failed)[0][1].retryable


def test_what_an_older_epoch_has_left_takes_room_until_it_is_gone():
    mesh = Mesh(num_prefill=1)
    mesh.beat("p0", received=9, finished=9, held=(Held("old", 1, 8000),), epoch=76)
    mesh.submit(length=1000)
    assert mesh.sent_of(RunChunk) == []
    mesh.beat("p0", received=9, finished=9, epoch=76)
    assert len(mesh.sent_of(RunChunk)) == 1
    # Its turns of that epoch say nothing about ours.
    mesh.beat("p0", received=9, finished=9, epoch=76)
    assert mesh.router.books.memory.owners
    assert mesh.router.books.pool.planned("p0") == 1
    mesh.beat("p0", received=1, finished=1, epoch=77)
    assert not mesh.router.books.memory.owners


def test_a_broker_lets_go_of_what_decode_has_completely():
    mesh = Mesh()
    mesh.submit()
    mesh.sent.clear()
    mesh.broker_beat((Held("r", 1, 2),))
    assert mesh.sent_of(EndOfRequest) == []
    decoding(mesh)
    mesh.broker_beat((Held("r", 1, 2),))
    assert mesh.sent_of(EndOfRequest) == [("in-b", EndOfRequest("r", 1, 0, "abort"))]
    assert mesh.router.books.requests.find("r").admitted


def test_facts_of_decode_make_up_for_a_lost_admission():
    mesh = Mesh()
    mesh.submit()
    mesh.decode_beat(0, (Held("r", 1, 1024),))
    assert not mesh.router.books.requests.find("r").admitted
    decoding(mesh)
    assert mesh.router.books.requests.find("r").admitted
    assert not mesh.router.books.placement.owners


def test_an_admitted_attempt_that_decode_no_longer_holds_fails_after_a_grace():
    mesh = Mesh()
    mesh.submit()
    mesh.give(Admitted("d", 1, "r", 1, 1024))
    mesh.decode_beat()
    mesh.now = GRACE / 2
    # It was only that the facts were older than the admission.
    decoding(mesh)
    mesh.now = GRACE
    mesh.decode_beat()
    # Facts that list fewer requests than are active prove nothing.
    mesh.now = 2 * GRACE - 0.1
    mesh.decode_beat(1)
    mesh.decode_beat()
    assert mesh.sent_of(Failed) == []
    mesh.now = 2 * GRACE
    mesh.decode_beat()
    ((to, failed),) = mesh.sent_of(Failed)
    assert (to, failed.retryable) == ("in-g", True)


def test_an_attempt_that_prefill_has_handed_over_and_nobody_holds_fails_after_a_grace():
    mesh = Mesh()
    mesh.submit()
    for at in (0.0, GRACE, 2 * GRACE):
        mesh.now = at
        mesh.decode_beat()
    assert mesh.sent_of(Failed) == []
    mesh.run_all()
    mesh.decode_beat(0, (Held("r", 1, 1024),))
    mesh.now = 10.0
    mesh.decode_beat()
    assert mesh.sent_of(Failed) == []
    mesh.now = 10.0 + GRACE
    mesh.decode_beat()
    assert len(mesh.sent_of(Failed)) == 1
    assert mesh.router.books.quiescent()


def test_graces_begin_again_when_the_router_stood_still():
    mesh = Mesh()
    mesh.submit()
    mesh.router.tick(0.0)
    mesh.gateway_beat()
    mesh.now = 60.0
    mesh.router.tick(mesh.now)
    mesh.gateway_beat()
    assert len(mesh.router.books.requests) == 1


def test_facts_of_another_role_level_nothing():
    mesh = Mesh()
    ignored = mesh.router.num_ignored
    mesh.give(Heartbeat("decode-worker", "d", 1, GatewayFacts(0), "in-d"))
    assert mesh.router.num_ignored == ignored + 1


def test_a_rejected_attempt_that_the_gateway_still_has_is_rejected_again():
    mesh = Mesh()
    request = mesh.router.books.requests
    mesh.submit()
    rejected = Rejected("r", 1, 503, "why", 2.0)
    request.end(request.find("r").owner, rejected)
    mesh.gateway_beat(("r", 1))
    assert mesh.sent_of(Rejected) == [("in-g", rejected)]
    assert not isinstance(mesh.sent[-1][1], Submit)
