from array import array

from common.events import Planned
from common.messages import Cancel, EndOfRequest, Events, Failed, Released, RunChunk
from services.router.calibration import Order
from services.router.orders import VOCABULARY
from tests.services.router.mesh import Mesh

PROMPT = Order(2, (100, 60))


def started(mesh, order=PROMPT, names=("p0", "p1")):
    orders = mesh.router._orders
    assert orders.start(order, frozenset(names), mesh.now)
    return orders


def released(mesh, *names):
    for name in names:
        mesh.give(Released(name, 1, mesh.router._orders.running.request, 1))


def test_a_prompt_of_the_router_is_an_ordinary_request_that_ends_with_its_first_token():
    mesh = Mesh()
    orders = started(mesh)
    runs = [run for _, run in mesh.sent_of(RunChunk)]
    assert [(run.index, run.rank) for run in runs] == [(0, 0), (0, 1), (1, 0), (1, 1)]
    assert [(chunk.size, chunk.length) for chunk in runs[0].chunks] == [(2, 100), (2, 60)]
    assert runs[0].ending.max_tokens == 1
    assert runs[0].ending.ignore_eos
    assert runs[0].gateway.inbox == runs[0].router == "in-router"
    ((_, _, frames), *_) = [one for one in mesh.sent if isinstance(one[1], RunChunk)]
    ids = array("i", frames[0])
    assert len(ids) == 101
    assert 0 <= min(ids) < max(ids) < VOCABULARY
    assert not orders.is_over()
    mesh.give(EndOfRequest(*orders.running, 1, "length", "in-p1"))
    assert not orders.is_over()
    released(mesh, "p0", "p1")
    assert orders.is_over()
    orders.settle()
    assert orders.running is None
    assert mesh.router.books.quiescent()


def test_each_has_a_name_of_its_own():
    mesh = Mesh()
    orders = started(mesh)
    first = orders.running.request
    mesh.now += 1.5
    assert orders.elapsed(mesh.now) == 1.5
    orders.stop(mesh.now)
    started(mesh)
    assert orders.running.request != first
    assert orders.is_own(first)
    assert "77" in first
    assert not orders.is_own("r")


def test_stopped_everybody_is_told_to_leave_it():
    mesh = Mesh()
    orders = started(mesh)
    owner = orders.running
    orders.stop(mesh.now)
    told = {to for to, message in mesh.sent_of(Cancel) if message.request == owner.request}
    assert told == {"in-p0", "in-p1", "in-d", "in-b"}
    assert mesh.router.books.requests.get(owner) is None
    assert not list(mesh.router.books.pool.tasks)
    assert orders.is_over()
    orders.stop(mesh.now)


def test_only_the_named_instances_run_it_and_without_room_it_is_not_there_at_all():
    mesh = Mesh(3)
    orders = started(mesh, Order(1, (100,)), ("p2",))
    assert {to for to, _ in mesh.sent_of(RunChunk)} == {"in-p2"}
    orders.stop(mesh.now)
    before = mesh.router.books.requests.owners
    for order, names in ((Order(2, (100,)), ("p1",)), (Order(1, (9000,)), ("p1",))):
        assert not orders.start(order, frozenset(names), mesh.now)
        assert orders.running is None
        assert mesh.router.books.requests.owners == before


def test_one_that_fails_is_over():
    mesh = Mesh()
    orders = started(mesh)
    owner = orders.running
    mesh.give(Failed(*owner, "prefill", "broken", retryable=True, sender="in-p0"))
    released(mesh, "p0", "p1")
    assert orders.is_over()
    # The router hears its own words as any gateway would.
    ((_, failed),) = [one for one in mesh.sent_of(Failed) if one[0] == "in-router"]
    mesh.give(failed)
    assert orders.is_over()


def test_gateways_are_told_of_it_under_a_name_that_no_client_has_and_it_has_no_shadow():
    mesh = Mesh(shadow="fixed-sp:1")
    orders = started(mesh)
    mesh.router.tell(mesh.now)
    ((_, message),) = mesh.sent_of(Events)
    (planned,) = [event for event in message.events if isinstance(event, Planned)]
    assert orders.is_own(planned.request) and planned.request.startswith("tetris-measures-")
    assert (planned.policy, planned.shadow) == ("forced", None)
