from msgspec import json

from common.messages import (
    Admitted,
    Ask,
    ChunkDone,
    DecodeFacts,
    DecodeStats,
    Events,
    Explained,
    Held,
    Ready,
    Released,
    RunChunk,
    Running,
)
from services.router.decision_answer import DecisionAnswer
from tests.services.router.mesh import Mesh, done


def test_reports_of_the_wrong_role_or_life_are_not_taken():
    mesh = Mesh()
    before = mesh.router.num_ignored
    mesh.give(Ready("d", 1, 1, 1))
    mesh.give(Ready("p0", 2, 1, 1))
    mesh.give(Released("stranger", 1, "r", 1))
    mesh.give(DecodeStats("p0", 1, DecodeFacts(1, 1, 0, 0)))
    mesh.give(Admitted("d", 1, "nobody", 1, 5))
    assert mesh.router.num_ignored == before + 5


def test_a_chunk_that_is_done_frees_its_members_unless_the_turn_is_not_theirs():
    mesh = Mesh(num_prefill=1)
    mesh.submit()
    ((_, run),) = mesh.sent_of(RunChunk)
    pool = mesh.router.books.pool
    report = ("r", 1, 0, 0.1, 0.0, 0.0, 0.0, 0, 0)
    mesh.give(Ready("p0", 1, run.seq, run.turn))
    mesh.give(ChunkDone("p0", 1, run.seq + 1, run.turn, *report))
    assert pool.planned("p0") == 1
    mesh.give(ChunkDone("p0", 1, run.seq, run.turn, *report))
    assert pool.planned("p0") == 0


def test_admission_makes_virtual_usage_real_whoever_says_it_first():
    mesh = Mesh()
    mesh.submit()
    books = mesh.router.books
    assert books.placement.owners
    mesh.give(Admitted("d", 1, "r", 1, 1024))
    mesh.give(Admitted("d", 1, "r", 1, 1024))
    assert not books.placement.owners
    assert books.placement.freeness("d") == 16384 - 1024
    assert books.requests.find("r").admitted


def test_a_turn_that_is_done_is_not_sent_again_whatever_heartbeats_got_lost():
    mesh = Mesh(num_prefill=1)
    mesh.submit(length=1000, forced_plan="1:400,1")
    first, last = (run for _, run in mesh.sent_of(RunChunk))
    report = ("r", 1, 0, 0.1, 0.0, 0.0, 0.0, 0, 0)
    mesh.give(ChunkDone("p0", 1, first.seq, first.turn, *report))
    mesh.sent.clear()
    mesh.now = 5.0
    mesh.beat("p0")
    assert [run.turn for _, run in mesh.sent_of(RunChunk)] == [last.turn]


def told(mesh):
    """The events since the last time, by kind, without the mesh's states."""
    mesh.sent.clear()
    mesh.router.tell(mesh.now)
    events = [event for _, message in mesh.sent_of(Events) for event in message.events]
    return [type(event).__name__ for event in events if type(event).__name__ != "MeshState"]


def test_everything_is_told_once_however_often_members_say_it():
    mesh = Mesh(num_prefill=1)
    mesh.submit()
    ((_, run),) = mesh.sent_of(RunChunk)
    assert told(mesh) == ["Planned"]
    for _ in range(2):
        mesh.give(Ready("p0", 1, run.seq, run.turn))
        mesh.give(done(run, "p0"))
        mesh.give(Admitted("d", 1, "r", 1, 1024))
        mesh.give(Released("p0", 1, "r", 1))
    assert told(mesh) == ["Began", "Computed", "Decoding", "HandedOver"]


def test_what_got_lost_is_told_when_a_heartbeat_says_it():
    mesh = Mesh(num_prefill=1)
    mesh.submit()
    ((_, run),) = mesh.sent_of(RunChunk)
    told(mesh)
    mesh.beat("p0", 1, 0, Running(run.seq, 3), (Held("r", 1, 1008),))
    assert told(mesh) == ["Began"]
    mesh.beat("p0", 1, 1, None, (Held("r", 1, 1008),))
    mesh.decode_beat(1, (Held("r", 1, 1024, admitted=True),))
    mesh.beat("p0", 1, 1)
    assert told(mesh) == ["Decoding", "HandedOver"]


def test_what_was_measured_of_a_plan_is_in_its_explanation():
    mesh = Mesh(num_prefill=1)
    mesh.submit(length=1000, forced_plan="1:400,1")
    first, _ = (run for _, run in mesh.sent_of(RunChunk))
    mesh.give(done(first, "p0"))
    mesh.give(done(first, "p0"))
    mesh.give(Ask(5, "mem://asks", "plan", "r"))
    mesh.give(Ask(6, "mem://asks", "plan", "stranger"))
    mesh.give(Ask(7, "mem://asks", "plan"))
    answers = [message for to, message in mesh.sent_of(Explained) if to == "mem://asks"]
    assert [(one.query, len(one.explanation) > 0) for one in answers] == [
        (5, True),
        (6, False),
        (7, False),
    ]
    answer = json.decode(answers[0].explanation, type=DecisionAnswer)
    assert (answer.forced, answer.problem) == ("1:400,1", None)
    assert [(one.index, one.members, one.seconds) for one in answer.measured] == [(0, 1, 0.1)]
