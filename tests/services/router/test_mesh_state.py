from common.events import MeshState
from common.messages import (
    BrokerFacts,
    DecodeFacts,
    Heartbeat,
    PrefillFacts,
    Ready,
    RunChunk,
)
from services.router.mesh_state import mesh_state
from services.router.scheduler import Scheduler
from tests.services.router.mesh import Mesh, done


def state_of(mesh: Mesh, drift: dict[int, float] | None = None) -> MeshState:
    scheduler: Scheduler = mesh.router._planning.scheduler
    return mesh_state(mesh.router.books, scheduler, drift or {}, mesh.now)


def test_an_idle_mesh_is_told_as_it_has_joined() -> None:
    mesh = Mesh()
    mesh.router.books.wall.offset = 100.0
    state = state_of(mesh, {1: 1.5, 4: 1e12})
    assert (state.at, state.policy, state.rate, state.load) == (100.0, "cdsp", 0.1, None)
    assert (state.waiting, state.requests) == (0, 0)
    assert [(one.name, one.node, one.total, one.used) for one in state.prefill] == [
        ("p0", "node", 8192, 0),
        ("p1", "node", 8192, 0),
    ]
    assert [(one.name, one.total, one.active) for one in state.decode] == [("d", 16384, 0)]
    assert [(one.name, one.backends, one.oldest) for one in state.brokers] == [("b", 0, 0.0)]
    assert [(one.size, one.ratio) for one in state.drift] == [(1, 1.5), (4, 1e9)]


def test_workers_and_brokers_are_told_by_their_last_heartbeats() -> None:
    mesh = Mesh()
    mesh.now = 1.0
    mesh.give(Heartbeat("prefill-worker", "p0", 1, PrefillFacts(77, 0, 0, 8192, 8000), "in-p0"))
    mesh.give(Heartbeat("decode-worker", "d", 1, DecodeFacts(16384, 16000, 3, 9), "in-d"))
    mesh.give(Heartbeat("kv-transfer", "b", 1, BrokerFacts(2, 1, 4, oldest=2.5), "in-b"))
    mesh.now = 1.25
    state = state_of(mesh)
    assert [one.used for one in state.prefill] == [192, 0]
    assert [(one.active, one.used, one.total) for one in state.decode] == [(3, 384, 16384)]
    [broker] = state.brokers
    assert (broker.backends, broker.lent, broker.waiting, broker.oldest) == (2, 1, 4, 2.75)


def test_an_instance_is_busy_from_when_its_group_has_come_until_it_says_that_it_is_done() -> None:
    mesh = Mesh(num_prefill=1)
    state_of(mesh)
    mesh.submit(length=8000)
    [(to, run)] = mesh.sent_of(RunChunk)
    assert to == "in-p0"
    mesh.now = 0.25
    mesh.give(Ready("p0", 1, run.seq, run.turn))
    mesh.now = 1.0
    state = state_of(mesh)
    assert state.requests == 1
    assert [one.busy for one in state.prefill] == [0.75]
    mesh.now = 1.5
    mesh.give(done(run, "p0"))  # in a tenth of a second, as it says: the rest was the news' way
    mesh.now = 2.0
    assert [round(one.busy, 6) for one in state_of(mesh).prefill] == [0.1]
    mesh.now = 3.0
    assert [one.busy for one in state_of(mesh).prefill] == [0.0]
