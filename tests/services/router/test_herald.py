from common.events import MeshState, Planned, Waits
from common.messages import Events
from tests.services.router.mesh import Mesh, hello


def told(mesh: Mesh) -> list[tuple[str, int, list[str]]]:
    """Whom the router has told what since the last time."""
    sent = [
        (to, message.first, [type(event).__name__ for event in message.events])
        for to, message in mesh.sent_of(Events)
    ]
    mesh.sent.clear()
    return sent


def test_all_gateways_are_told_the_same_and_nothing_when_there_is_nothing() -> None:
    mesh = Mesh()
    mesh.give(hello("gateway", "h"))
    mesh.submit()
    mesh.router.tell(0.0)
    kinds = ["Planned", "MeshState"]
    assert told(mesh) == [("in-g", 0, kinds), ("in-h", 0, kinds)]
    mesh.router.tell(0.1)
    assert told(mesh) == []


def test_the_state_of_the_mesh_comes_once_per_second() -> None:
    mesh = Mesh()
    for tick in range(31):
        mesh.router.tell(tick * 0.1)
    assert [first for _, first, _ in told(mesh)] == [0, 1, 2, 3]


def test_what_happened_while_there_was_no_gateway_is_not_told_later() -> None:
    mesh = Mesh()
    mesh.router.lose("g", "gone", 0.0)
    mesh.router.tell(0.0)
    mesh.give(hello("gateway", "h"))
    mesh.router.tell(1.0)
    assert told(mesh) == [("in-h", 0, ["MeshState"])]


def test_a_request_without_room_waits_and_is_planned_when_there_is_some() -> None:
    mesh = Mesh(num_prefill=1)
    mesh.submit("a", 8000)
    mesh.submit("b", 8000)
    mesh.submit("b", 8000)  # once more
    mesh.router.tell(0.0)
    [(_, message)] = mesh.sent_of(Events)
    assert message.epoch == 77
    planned, waits, state = message.events
    assert isinstance(planned, Planned) and isinstance(waits, Waits)
    assert (waits.request, waits.attempt, waits.length) == ("b", 1, 8000)
    assert isinstance(state, MeshState) and state.waiting == 1
    mesh.run_all()
    mesh.sent.clear()
    mesh.router.tell(0.5)
    [(_, message)] = mesh.sent_of(Events)
    assert [type(event).__name__ for event in message.events] == [
        "Began",
        "Computed",
        "HandedOver",
        "Planned",
    ]
    assert [event.request for event in message.events] == ["a", "a", "a", "b"]
