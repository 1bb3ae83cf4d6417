import pytest

from common.messages import Accepted, Rejected
from common.schedule import Schedule
from services.router.entrance import NEW, WAIT
from tests.services.router.mesh import Mesh, hello

LENGTH = 8000
ONE = Schedule(policy="fixed-sp:1")


def mesh_of(max_ttft=10.0, num_prefill=1, **router):
    return Mesh(num_prefill, ONE, total=10_000_000, max_ttft=max_ttft, **router)


def refused(mesh):
    return [rejected for _, rejected in mesh.sent_of(Rejected)]


def fill(mesh, length=LENGTH, limit=1000):
    """Submit until one is refused; the refusal."""
    for number in range(limit):
        mesh.submit(f"f{number}", length)
        if refused(mesh):
            return refused(mesh)[-1]
    raise AssertionError("nobody was refused")


@pytest.fixture
def mesh():
    return mesh_of()


def wait(mesh):
    return max(mesh.router.books.pool.delays(mesh.now).values())


def test_newcomers_are_refused_as_soon_as_they_would_wait_too_long(mesh):
    rejected = fill(mesh)
    assert rejected.status == 503
    assert "max_ttft" in rejected.reason
    assert NEW * 10 <= wait(mesh) <= NEW * 10 + 2
    told = [accepted.predicted_ttft for _, accepted in mesh.sent_of(Accepted)]
    assert max(told) <= 10.0
    # Nothing of it is left.
    assert mesh.router.books.requests.find(rejected.request) is None


def test_the_wait_counts_and_not_the_length_of_the_prompt():
    mesh = mesh_of(max_ttft=1.0)
    mesh.submit("long", 90_000)
    # It takes longer than anybody may wait, and did not have to wait.
    assert mesh.router.books.requests.find("long").plan.ttft > 5.0
    mesh.submit("behind", 100)
    assert [one.request for one in refused(mesh)] == ["behind"]


def test_whoever_comes_back_in_his_time_is_taken_in_where_newcomers_are_not(mesh):
    rejected = fill(mesh)
    for number in range(1, 8):
        # Whatever comes free is taken by others.
        mesh.now = rejected.retry_after * number / 8
        mesh.submit(f"others{number}", LENGTH + number)
    mesh.now = rejected.retry_after
    mesh.submit("others", LENGTH + 100)
    assert refused(mesh)[-1].request == "others"
    mesh.submit("again", LENGTH)
    assert mesh.router.books.requests.find("again") is not None
    mesh.submit("twice", LENGTH)
    assert refused(mesh)[-1].request == "twice"


def test_whoever_comes_back_too_early_is_told_the_same_time(mesh):
    rejected = fill(mesh)
    mesh.now = rejected.retry_after / 2
    before = len(refused(mesh))
    for number in range(4):
        mesh.submit(f"other{number}", LENGTH - 1 - number)
    mesh.submit("early", LENGTH)
    early = refused(mesh)[-1]
    assert early.request == "early"
    assert early.retry_after == pytest.approx(rejected.retry_after / 2)
    assert len(refused(mesh)) > before


def test_even_those_who_return_do_not_wait_for_ever():
    mesh = mesh_of()
    rejected = fill(mesh)
    promises = mesh.router.entrance.promises
    names = []
    for number in range(60):
        mesh.submit(f"more{number}", LENGTH + number)
        names.append(LENGTH + number)
    # All at once, which nobody promised them.
    for key in list(promises._promises):
        promise = promises._promises[key]
        promises._promises[key] = promise._replace(second=0)
        del promises._seconds[promise.second][key]
        promises._seconds.setdefault(0, {})[key] = None
    promises._work[0] = 100.0
    taken = 0
    for length in names:
        mesh.submit(f"back{length}", length)
        taken += mesh.router.books.requests.find(f"back{length}") is not None
    assert rejected.retry_after >= 1
    assert 0 < taken < 60
    assert WAIT * 10 - 2 <= wait(mesh) <= WAIT * 10 + 2


def test_without_a_bound_nobody_is_refused():
    mesh = mesh_of(max_ttft=0.0)
    for number in range(200):
        mesh.submit(f"r{number}", LENGTH)
    assert refused(mesh) == []
    assert wait(mesh) > 100


def test_what_was_accepted_before_is_never_refused_for_its_wait(mesh):
    fill(mesh)
    mesh.submit("before", LENGTH, attempt=2)
    assert mesh.router.books.requests.find("before") is not None


def test_a_client_who_would_have_given_up_is_told_at_once(mesh):
    for number in range(4):
        mesh.submit(f"r{number}", LENGTH)
    (_, accepted) = mesh.sent_of(Accepted)[-1]
    mesh.submit("patient", LENGTH, patience=2 * accepted.predicted_ttft)
    assert refused(mesh) == []
    mesh.submit("hasty", LENGTH, patience=accepted.predicted_ttft)
    (rejected,) = refused(mesh)
    assert (rejected.request, rejected.status) == ("hasty", 503)
    assert "timeout" in rejected.reason
    assert rejected.retry_after >= 1


def test_a_client_who_would_give_up_in_an_empty_mesh_must_change_his_request(mesh):
    mesh.submit("hopeless", LENGTH, patience=0.01)
    (rejected,) = refused(mesh)
    assert (rejected.status, rejected.retry_after) == (400, None)
    assert "timeout" in rejected.reason


def test_a_mesh_that_lacks_members_blames_no_timeout_but_asks_to_come_back(mesh):
    # The workers that would make it faster may still come.
    mesh.give(hello("prefill-worker", "late", total=10_000_000))
    mesh.submit("early", LENGTH, patience=0.01)
    (rejected,) = refused(mesh)
    assert rejected.status == 503
    assert rejected.retry_after >= 1


def test_what_nobody_can_predict_is_bounded_by_the_queue():
    mesh = mesh_of(num_prefill=0, max_queue=3)
    for number in range(5):
        mesh.submit(f"r{number}", LENGTH)
    assert [one.request for one in refused(mesh)] == ["r3", "r4"]
    assert all(one.retry_after == 2.0 for one in refused(mesh))


def test_a_full_queue_keeps_a_part_for_those_who_return():
    mesh = Mesh(1, ONE, total=8192, max_ttft=0.0, max_queue=20)
    for number in range(30):
        mesh.submit(f"r{number}", 8000 - number)
    names = [one.request for one in refused(mesh)]
    assert names == [f"r{number}" for number in range(19, 30)]
    assert "max_queue" in refused(mesh)[-1].reason
    mesh.now = refused(mesh)[0].retry_after
    mesh.submit("new", 5000)
    assert refused(mesh)[-1].request == "new"
    mesh.submit("again", 8000 - 19)
    assert mesh.router.books.requests.find("again") is not None


def test_a_submit_that_is_repeated_hears_the_same_refusal(mesh):
    rejected = fill(mesh)
    mesh.submit(rejected.request, LENGTH)
    assert refused(mesh)[-1] == rejected
    assert len(refused(mesh)) == 2


def test_refusals_hold_little_and_books_stay_flat(mesh):
    fill(mesh)
    for number in range(300):
        mesh.now += 0.001
        mesh.submit(f"flood{number}", LENGTH + number % 50)
    assert len(mesh.router.entrance.promises) <= 51
    assert len(mesh.router.books.requests) < 30
