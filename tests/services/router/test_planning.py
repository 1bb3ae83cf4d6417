from array import array

import pytest

from common.messages import Ready, RunChunk, Sampling
from common.schedule import Pricing, Schedule
from tests.services.router.mesh import Mesh, hello


def late(**changes):
    return Schedule(
        policy="cdsp-priced",
        sp_size_candidates=(1, 2),
        priced=Pricing(**({"order": "tail:0.33"} | changes)),
    )


def test_a_size_that_the_mesh_of_now_cannot_host_is_not_kept():
    mesh = Mesh(num_prefill=0, schedule=late(replan=False))
    mesh.give(hello("prefill-worker", "big", total=50_000))
    mesh.give(hello("decode-worker", "e", total=50_000))
    mesh.submit("first", 12_000)
    mesh.submit("second", 12_000)
    find = mesh.router.books.requests.find
    assert find("first").plan.members == ("big",)
    assert (find("second").plan, find("second").size) == (None, 1)
    for name in ("p0", "p1"):
        mesh.give(hello("prefill-worker", name))
    mesh.router.lose("big", "no heartbeat", mesh.now)
    mesh.router.tick(mesh.now)
    # On one of the others there is no room for it; on both of them there is.
    assert set(find("second").plan.members) == {"p0", "p1"}


@pytest.fixture
def busy():
    """A mesh in which nobody is free, and a long queue."""
    mesh = Mesh(num_prefill=16, schedule=late(), total=10**7)
    for index in range(216):
        mesh.submit(f"r{index}", 2000)
    assert mesh.router.books.requests.num_waiting > 200
    return mesh


def test_while_nobody_is_free_a_message_does_not_sort_the_queue(busy, monkeypatch):
    monkeypatch.setattr(busy.router._planning.scheduler, "ordered", None)
    busy.give(Ready("p0", 1, 99_999, 1))
    assert busy.router.books.requests.num_waiting > 200


def test_what_became_impossible_while_nobody_was_free_is_rejected(busy):
    decode = busy.router.books.placement
    assert not busy.router._planning.stuck()
    busy.give(hello("decode-worker", "d", incarnation=2, total=64))
    assert decode.largest({"d"}) == 64
    assert len(busy.router._planning.stuck()) > 200


def test_a_chunk_says_when_its_request_came_and_when_the_planning_began_that_led_to_it():
    mesh = Mesh(num_prefill=1)
    mesh.router.books.wall.offset = 1000.0
    mesh.submit("a", 8000)
    mesh.now = 1.0
    mesh.submit("b", 8000)
    mesh.now = 2.0
    mesh.submit("b", 8000)
    mesh.now = 5.0
    mesh.run_all()
    times = [(run.request, run.received, run.planned) for _, run in mesh.sent_of(RunChunk)]
    assert times == [("a", 1000.0, 1000.0), ("b", 1001.0, 1005.0)]


def test_the_ids_so_far_go_with_the_last_chunk_and_only_where_penalties_look_at_them():
    mesh = Mesh()
    mesh.submit("a", 1000, forced_plan="1,2", sampling=Sampling(repetition_penalty=1.1))
    mesh.submit("b", 1000, forced_plan="1,2")
    sent = [(run.request, run.index, run.rank, len(run.past)) for _, run in mesh.sent_of(RunChunk)]
    assert sorted(sent) == [
        ("a", 0, 0, 0),
        ("a", 1, 0, 4000),
        ("a", 1, 1, 4000),
        ("b", 0, 0, 0),
        ("b", 1, 0, 0),
        ("b", 1, 1, 0),
    ]
    [past] = {run.past for _, run in mesh.sent_of(RunChunk) if run.past}
    assert past == array("i", range(1000)).tobytes()


def test_every_member_of_every_chunk_scores_the_prompt_where_that_is_wanted():
    mesh = Mesh()
    mesh.submit("a", 1000, forced_plan="1,2", prompt_logprobs=7)
    mesh.submit("b", 1000, forced_plan="1,2")
    wanted = [(run.request, run.prompt_logprobs) for _, run in mesh.sent_of(RunChunk)]
    assert sorted(wanted) == 3 * [("a", 7)] + 3 * [("b", -1)]
