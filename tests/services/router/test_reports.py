from common.messages import Admitted, ChunkDone, DecodeFacts, DecodeStats, Ready, Released, RunChunk
from tests.services.router.mesh import Mesh


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
