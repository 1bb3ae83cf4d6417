import pytest

from common.messages import (
    Admitted,
    ChunkDone,
    Ending,
    EndOfRequest,
    Ready,
    RunChunk,
    Sampling,
    Submit,
)
from common.schedule import Pricing, Schedule
from services.router.outlook import REFRESH
from services.router.requests import Request
from tests.services.router.mesh import GATEWAY, Mesh

PRICED = Schedule(policy="cdsp-priced", priced=Pricing(order="slope:20"))


def outlook_of(mesh):
    return mesh.router.entrance.outlook


def newcomer(length, attempt=1, name="new"):
    submit = Submit(name, attempt, GATEWAY, length, 0, Sampling(), Ending(10))
    return Request.of(submit, bytes(4 * length))


def counted(outlook):
    """How often the queue is thought through from here on."""
    made, make = [], outlook._make

    def count(now, request):
        made.append(now)
        return make(now, request)

    outlook._make = count
    return made


def test_what_starts_at_once_is_expected_when_its_plan_says():
    mesh = Mesh()
    expected = outlook_of(mesh).expect(newcomer(4000), 0.0)
    mesh.submit(length=4000)
    found = mesh.router.books.requests.find("r")
    assert found.plan.ttft == pytest.approx(expected.at)
    assert found.expected == pytest.approx(expected.at)


def test_what_waits_is_expected_when_the_slots_of_others_come_free():
    mesh = Mesh(num_prefill=1)
    mesh.submit("first", 8000)
    mesh.submit("second", 8000)
    mesh.submit("third", 8000)
    told = [mesh.router.books.requests.find(name).expected for name in ("first", "second", "third")]
    assert told == pytest.approx([told[0], 2 * told[0], 3 * told[0]])


def test_a_hand_over_that_takes_its_time_is_reckoned_with():
    mesh = Mesh(num_prefill=1)
    mesh.submit("first", 8000)
    ((_, run),) = mesh.sent_of(RunChunk)
    mesh.now = run.predicted
    mesh.give(ChunkDone("p0", 1, run.seq, run.turn, "first", 1, 0, 0.1, 0, 0, 0, 0, 0))
    departures = mesh.router.books.departures
    departures.handover = 3.0
    mesh.submit("second", 8000)
    found = mesh.router.books.requests.find("second")
    assert found.expected == pytest.approx(run.predicted + 3.0 + run.predicted)
    # What is overdue takes a little longer yet.
    mesh.now = run.predicted + 4.0
    expected = outlook_of(mesh).expect(newcomer(100), mesh.now)
    assert expected.at > mesh.now + 0.7


def test_decode_slots_are_expected_back_at_the_end_of_the_answer():
    mesh = Mesh(num_prefill=4)
    mesh.submit("first", 16_000)
    first = mesh.router.books.requests.find("first")
    mesh.submit("second", 8000)
    second = mesh.router.books.requests.find("second")
    stay = mesh.router.books.departures.stay(10)
    assert second.plan is None
    assert second.expected >= first.expected + stay
    assert second.expected < first.expected + stay + 2.0


def test_answers_that_are_over_teach_how_long_others_stay():
    mesh = Mesh(num_prefill=4)
    before = mesh.router.books.departures.stay(10)
    mesh.submit("first", 1000)
    mesh.give(Admitted("d", 1, "first", 1, 1024))
    mesh.now = 100.0
    mesh.give(EndOfRequest("first", 1, 10, "stop"))
    assert mesh.router.books.departures.stay(10) > before


def test_a_forecast_is_kept_while_newcomers_join_and_made_anew_when_it_is_old():
    mesh = Mesh(num_prefill=1)
    mesh.submit("first", 8000)
    ((_, run),) = mesh.sent_of(RunChunk)
    mesh.give(Ready("p0", 1, run.seq, run.turn))
    mesh.submit("second", 8000)
    made = counted(outlook_of(mesh))
    for number in range(20):
        mesh.submit(f"more{number}", 100)
    assert made == []
    told = [mesh.router.books.requests.find(f"more{number}").expected for number in range(20)]
    assert told == sorted(told)
    kept = outlook_of(mesh).expect(newcomer(100), mesh.now).at
    mesh.now = REFRESH + 0.01
    anew = outlook_of(mesh).expect(newcomer(100), mesh.now).at
    assert made == [mesh.now]
    # What happened meanwhile is what was thought.
    assert anew == pytest.approx(kept)


def test_another_mesh_makes_another_forecast():
    mesh = Mesh(num_prefill=2)
    for number in range(6):
        mesh.submit(f"r{number}", 8000)
    before = outlook_of(mesh).expect(newcomer(8000), 0.0).at
    made = counted(outlook_of(mesh))
    mesh.router.lose("p1", "test", 0.0)
    assert outlook_of(mesh).expect(newcomer(8000), 0.0).at > before
    assert len(made) == 1


def test_a_new_attempt_waits_only_for_those_before_it():
    mesh = Mesh(num_prefill=1)
    for number in range(4):
        mesh.submit(f"r{number}", 8000)
    alone = mesh.router.books.requests.find("r0").expected
    again = outlook_of(mesh).expect(newcomer(8000, attempt=2), 0.0)
    assert again.at == pytest.approx(2 * alone)


def test_under_another_order_the_short_ones_wait_less():
    mesh = Mesh(num_prefill=2, schedule=PRICED, total=100_000)
    for number in range(12):
        mesh.submit(f"r{number}", 20_000)
    short, long = (outlook_of(mesh).expect(newcomer(length), 0.0).at for length in (500, 40_000))
    assert short < long / 3


def test_nobody_knows_anything_of_an_empty_mesh():
    mesh = Mesh(num_prefill=0)
    assert outlook_of(mesh).expect(newcomer(100), 0.0) is None
    assert outlook_of(mesh).alone(newcomer(100), 0.0) is None
    mesh.submit(length=100)
    assert mesh.router.books.requests.find("r").expected is None


def test_alone_is_the_ttft_in_an_empty_mesh():
    mesh = Mesh(num_prefill=2)
    empty = outlook_of(mesh).expect(newcomer(4000), 0.0).at
    for number in range(6):
        mesh.submit(f"r{number}", 8000)
    assert outlook_of(mesh).alone(newcomer(4000), 0.0) == pytest.approx(empty)
