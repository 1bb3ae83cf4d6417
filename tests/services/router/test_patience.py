import pytest

from common.messages import Accepted, Admitted, Drain, Ending, Goodbye, Leave, Rejected, RunChunk
from tests.services.router.mesh import Mesh, hello


def ticks(mesh, seconds):
    until = mesh.now + seconds
    while mesh.now < until:
        mesh.now += 0.25
        for member in mesh.router.books.registry.members:
            member.seen = mesh.now
        mesh.router.tick(mesh.now)


def test_without_any_decode_instance_all_that_wait_are_told_at_once():
    mesh = Mesh(no_decode_timeout=10.0)
    mesh.router.lose("d", "test", mesh.now)
    mesh.submit("a")
    ticks(mesh, 6)
    mesh.submit("b")
    ticks(mesh, 4)
    assert mesh.sent_of(Rejected) == []
    ticks(mesh, 0.5)
    rejected = [message for _, message in mesh.sent_of(Rejected)]
    assert [(one.request, one.status) for one in rejected] == [("a", 503), ("b", 503)]
    assert all(one.retry_after > 0 for one in rejected)
    assert mesh.router.books.quiescent()
    # The next one has its own time.
    mesh.submit("c")
    ticks(mesh, 9)
    assert len(mesh.sent_of(Rejected)) == 2
    mesh.give(hello("decode-worker", "d", 2, total=16384))
    assert mesh.sent_of(RunChunk)[-1][1].request == "c"
    ticks(mesh, 9)
    assert len(mesh.sent_of(Rejected)) == 2


@pytest.mark.parametrize(("names", "what"), [(["p0", "p1"], "prefill instance"), (["b"], "broker")])
def test_nobody_waits_for_ever_for_a_role_that_was_drained_for_good(names, what):
    mesh = Mesh(no_decode_timeout=10.0)
    for name in names:
        mesh.give(Drain(1, "in-g", name))
        mesh.give(Leave(name, 1))
    for name in names:
        mesh.beat(name)
    assert {to for to, _ in mesh.sent_of(Goodbye)} == {f"in-{name}" for name in names}
    mesh.submit()
    ticks(mesh, 10)
    assert mesh.sent_of(Rejected) == []
    ticks(mesh, 1)
    ((_, rejected),) = mesh.sent_of(Rejected)
    assert (rejected.status, rejected.reason) == (503, f"there is no {what}")


def test_a_later_attempt_that_is_given_up_is_not_to_be_tried_again():
    mesh = Mesh(no_decode_timeout=1.0)
    mesh.router.lose("d", "test", mesh.now)
    mesh.submit(attempt=2)
    ticks(mesh, 2)
    ((_, rejected),) = mesh.sent_of(Rejected)
    # Its gateway would say the same attempt again, and would always hear of its end.
    assert (rejected.status, rejected.retry_after) == (503, None)


def test_a_lost_rejection_is_said_again_to_a_repeated_submit():
    mesh = Mesh(no_decode_timeout=1.0)
    mesh.router.lose("d", "test", mesh.now)
    mesh.submit()
    ticks(mesh, 2)
    mesh.submit()
    first, second = mesh.sent_of(Rejected)
    assert first == second


def test_time_in_which_the_router_stood_still_does_not_count():
    mesh = Mesh(no_decode_timeout=10.0)
    mesh.router.lose("d", "test", mesh.now)
    mesh.submit()
    ticks(mesh, 1)
    mesh.now += 60
    ticks(mesh, 9)
    assert mesh.sent_of(Rejected) == []
    ticks(mesh, 2)
    assert len(mesh.sent_of(Rejected)) == 1


def test_what_turns_out_to_be_impossible_is_rejected_and_holds_nobody_up():
    mesh = Mesh(num_prefill=0)
    for name in ("b", "d"):
        mesh.router.books.registry.remove(name)
        mesh.router.books.leave(name)
    mesh.submit("large", 16_000)
    mesh.submit("small", 100)
    assert [message.request for _, message in mesh.sent_of(Accepted)] == ["large", "small"]
    for one in (
        hello("kv-transfer", "b", 2),
        hello("decode-worker", "d", 2, total=32_768),
        hello("prefill-worker", "p"),
    ):
        mesh.give(one)
    assert [run.request for _, run in mesh.sent_of(RunChunk)] == ["small"]
    ticks(mesh, 1)
    # More members may be on their way.
    assert mesh.sent_of(Rejected) == []
    ticks(mesh, 2)
    ((_, rejected),) = mesh.sent_of(Rejected)
    assert (rejected.request, rejected.status) == ("large", 400)
    assert "prefill.kv_tokens" in rejected.reason


def test_what_needs_a_lost_member_waits_for_its_return():
    mesh = Mesh(num_prefill=2, no_decode_timeout=30.0)
    mesh.submit("before", forced_plan="2")
    mesh.router.lose("p1", "test", mesh.now)
    mesh.submit("before", attempt=2, forced_plan="2")
    mesh.submit("new", forced_plan="2")
    mesh.submit("small", 100)
    ticks(mesh, 20)
    assert mesh.sent_of(Rejected) == []
    assert mesh.sent_of(RunChunk)[-1][1].request == "small"
    mesh.give(hello("prefill-worker", "p1", 2))
    assert {run.request for _, run in mesh.sent_of(RunChunk)} == {"before", "new", "small"}


def test_what_needs_a_member_that_never_returns_is_rejected_at_last():
    mesh = Mesh(num_prefill=2, no_decode_timeout=30.0)
    mesh.router.lose("p1", "test", mesh.now)
    mesh.submit("new", forced_plan="2")
    ticks(mesh, 31)
    ((_, rejected),) = mesh.sent_of(Rejected)
    assert (rejected.status, "there are 1" in rejected.reason) == (400, True)


def test_a_new_router_lets_what_has_run_before_wait_for_members_that_it_never_saw():
    mesh = Mesh(num_prefill=1, no_decode_timeout=30.0)
    mesh.router.tick(mesh.now)
    mesh.submit("before", attempt=2, forced_plan="2")
    mesh.submit("new", forced_plan="2")
    assert [message.request for _, message in mesh.sent_of(Rejected)] == ["new"]
    ticks(mesh, 29)
    assert len(mesh.sent_of(Rejected)) == 1
    ticks(mesh, 2)
    assert [message.request for _, message in mesh.sent_of(Rejected)] == ["new", "before"]


def test_output_that_could_never_fit_is_refused_with_both_numbers_named():
    mesh = Mesh()
    mesh.submit(length=100, ending=Ending(max_tokens=16384))
    ((_, rejected),) = mesh.sent_of(Rejected)
    assert rejected.status == 400
    assert "max_tokens" in rejected.reason
    assert "decode.kv_tokens" in rejected.reason


def test_a_mesh_that_has_just_begun_to_grow_refuses_nobody_at_once():
    mesh = Mesh(num_prefill=1)
    mesh.give(hello("prefill-worker", "p1"))
    mesh.submit(forced_plan="4")
    assert mesh.sent_of(Rejected) == []
    for name in ("p2", "p3"):
        mesh.give(hello("prefill-worker", name))
    assert len(mesh.sent_of(RunChunk)) == 4


def test_a_restart_of_a_worker_costs_nobody_a_request():
    mesh = Mesh(num_prefill=2)
    mesh.give(Leave("p1", 1))
    mesh.submit("wide", forced_plan="2")
    mesh.submit("small", 100)
    # What waits for its return holds nobody up.
    assert {run.request for _, run in mesh.sent_of(RunChunk)} == {"small"}
    mesh.give(Admitted("d", 1, "small", 1, 128))
    mesh.beat("p1")
    assert mesh.sent_of(Goodbye)
    ticks(mesh, 20)
    mesh.give(hello("prefill-worker", "p1", 2))
    assert {run.request for _, run in mesh.sent_of(RunChunk)} == {"small", "wide"}
    assert mesh.sent_of(Rejected) == []


def test_nobody_waits_for_a_worker_that_was_drained_for_good():
    mesh = Mesh(num_prefill=2)
    mesh.give(Drain(1, "in-g", "p1"))
    mesh.submit(forced_plan="2")
    assert [message.status for _, message in mesh.sent_of(Rejected)] == [400]
