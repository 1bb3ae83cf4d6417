from common.messages import Ask, BrokerFacts, GatewayFacts, Heartbeat, Leave, Status
from common.schedule import Schedule
from tests.services.router.mesh import Mesh


def answer(mesh):
    mesh.sent.clear()
    mesh.give(Ask(7, "in-g", "status"))
    ((to, status),) = mesh.sent_of(Status)
    assert to == "in-g"
    return status


def test_the_status_lists_every_member_with_its_load():
    schedule = Schedule(improvement_rate=0.25, sp_size_candidates=(2, 1))
    mesh = Mesh(num_prefill=2, schedule=schedule)
    mesh.submit(forced_plan="2")
    mesh.now = 1.0
    mesh.give(Heartbeat("kv-transfer", "b", 1, BrokerFacts(4, 3, 1), "in-b"))
    mesh.give(Heartbeat("gateway", "g", 1, GatewayFacts(5), "in-g"))
    mesh.decode_beat(active=2)
    mesh.give(Leave("p1", 1))
    mesh.now = 1.25
    status = answer(mesh)
    assert (status.query, status.epoch, status.waiting, status.requests) == (7, 77, 0, 1)
    words = "1, 2; improvement rate 0.25; min chunk 128 tokens; load not counted yet"
    assert words in status.policy
    found = {one.name: one for one in status.members}
    assert list(found) == ["p0", "p1", "b", "d", "g"]
    loads = {name: (one.total, one.used, one.active) for name, one in found.items()}
    assert loads == {
        "p0": (8192, 0, 1),
        "p1": (8192, 0, 1),
        "b": (4, 3, 3),
        "d": (16384, 0, 2),
        "g": (5, 5, 5),
    }
    assert status.latency == "as given"
    assert (found["p0"].silence, found["b"].silence, found["b"].age) == (1.25, 0.25, 11.25)
    assert (found["p0"].state, found["p1"].state) == ("serving", "leaving")
    assert found["p0"].delay == mesh.router.books.pool.delays(1.25)["p0"]
    mesh.beat("p1", held=())
    assert {one.name: one.used for one in answer(mesh).members}["p1"] == 0
