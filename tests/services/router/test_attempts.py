import pytest
from msgspec import structs

from common.failpoints import hooked
from common.messages import (
    MAX_PAST,
    Accepted,
    Cancel,
    EndOfRequest,
    Failed,
    Rejected,
    RunChunk,
    Sampling,
)
from common.wire import CONTROL
from tests.services.router.mesh import Mesh


@pytest.mark.parametrize("kind", ["end", "failed"])
@pytest.mark.parametrize("state", ["live", "over", "unknown"])
def test_a_worker_that_repeats_an_end_is_always_answered(kind, state):
    mesh = Mesh()
    if state != "unknown":
        mesh.submit()
    if state == "over":
        mesh.give(Cancel("r", 1))
    mesh.sent.clear()
    if kind == "end":
        mesh.give(EndOfRequest("r", 1, 4, "stop", "in-d"))
    else:
        mesh.give(Failed("r", 1, "what", "why", True, sender="in-d"))
    answers = [message for to, message in mesh.sent_of(EndOfRequest) if to == "in-d"]
    assert len(answers) == 1
    assert answers[0].sender is None
    assert mesh.router.books.quiescent() or state != "unknown"


def test_a_reporter_that_was_no_party_is_answered_beside_the_parties():
    mesh = Mesh()
    mesh.submit(forced_plan="1")
    mesh.sent.clear()
    mesh.give(EndOfRequest("r", 1, 4, "stop", "in-else"))
    assert {to for to, _ in mesh.sent_of(EndOfRequest)} >= {"in-else", "in-d", "in-b"}


def test_an_eviction_is_passed_on_as_such_and_its_next_attempt_reserves_everything():
    mesh = Mesh(num_prefill=1, reserve_tokens=1)
    mesh.submit("first", 8000)
    mesh.submit("second", 8000)
    evicted = Failed("first", 1, "decode", "full", True, evicted=True, sender="in-d")
    mesh.give(evicted)
    assert mesh.sent_of(Failed) == [
        ("in-g", Failed("first", 1, "decode", "full", True, evicted=True))
    ]
    # Its KV is not released yet, so it has to wait, but before all others.
    mesh.submit("third", 8000)
    mesh.submit("first", 8000, attempt=2, evicted=True)
    assert mesh.router.books.requests.waiting[0].owner == ("first", 2)
    mesh.beat("p0", received=1, finished=1)
    run = mesh.sent_of(RunChunk)[-1][1]
    assert (run.request, run.attempt, run.reserve) == ("first", 2, 8016)


def test_an_unknown_end_is_remembered():
    mesh = Mesh()
    mesh.give(Failed("r", 1, "decode", "full", True, sender="in-d"))
    mesh.submit()
    assert mesh.sent_of(RunChunk) == []
    assert [one.attempt for _, one in mesh.sent_of(Failed)] == [1]
    mesh.submit(attempt=2)
    assert mesh.sent_of(RunChunk)


def test_what_the_gateway_gave_up_itself_is_not_answered():
    mesh = Mesh()
    mesh.submit()
    mesh.give(Cancel("r", 1))
    mesh.sent.clear()
    mesh.submit()
    assert [message for _, message, _ in mesh.sent] == []


def test_a_repeated_attempt_is_not_judged_by_the_mesh_of_the_moment():
    mesh = Mesh(num_prefill=2)
    mesh.submit(length=14_000)
    mesh.router.lose("p1", "test", 0.0)
    mesh.submit(length=14_000, attempt=2)
    assert mesh.sent_of(Rejected) == []
    assert mesh.sent_of(Accepted)[-1][1] == Accepted("r", 2)


def test_a_demand_that_makes_no_sense_is_refused_in_every_attempt():
    mesh = Mesh()
    mesh.submit(attempt=2, forced_plan="nonsense")
    assert mesh.sent_of(Rejected)[0][1].status == 400


def test_every_failpoint_is_reached():
    mesh = Mesh()
    reached = []
    names = ("router.submit", "router.plan", "router.issue", "router.end")
    for name in names:
        with hooked(name, lambda name=name: reached.append(name)):
            mesh.submit(name, 100, forced_plan="1:50,2")
            mesh.give(EndOfRequest(name, 1, 1, "stop"))
            mesh.give(EndOfRequest(name, 1, 1, "stop"))
    assert reached == ["router.submit", "router.plan", *3 * ["router.issue"], "router.end"]


@pytest.mark.parametrize("attempt", [1, 2])
def test_penalties_cannot_look_back_at_more_than_a_header_holds(monkeypatch, attempt):
    monkeypatch.setattr("services.router.attempts.MAX_PAST", 4000)
    mesh = Mesh()
    penalised = Sampling(frequency_penalty=0.5)
    mesh.submit("short", 1000, attempt, sampling=penalised)
    mesh.submit("plain", 1001, attempt)
    assert mesh.sent_of(Rejected) == []
    mesh.submit("long", 1001, attempt, sampling=penalised)
    [(to, rejected)] = mesh.sent_of(Rejected)
    assert (to, rejected.request, rejected.status) == ("in-g", "long", 400)
    assert "frequency_penalty" in rejected.reason
    assert "look back at 1000 tokens, there are 1001" in rejected.reason


def test_the_most_that_penalties_look_back_at_travels_in_a_header():
    mesh = Mesh(num_prefill=8, total=2**20)
    mesh.submit("r", 90_000, forced_plan="8", sampling=Sampling(frequency_penalty=0.5))
    [*runs] = [run for _, run in mesh.sent_of(RunChunk)]
    whole = structs.replace(runs[-1], past=bytes(MAX_PAST))
    assert CONTROL.decode(CONTROL.encode(whole, [b""]))[0] == whole
