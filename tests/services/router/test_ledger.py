from common.messages import Ask, Held, Ledger
from services.router.ledger import MAX_ENTRIES
from tests.services.router.mesh import Mesh


def answer(mesh):
    mesh.sent.clear()
    mesh.give(Ask(9, "in-g", "ledger"))
    ((to, ledger),) = mesh.sent_of(Ledger)
    assert (to, ledger.query) == ("in-g", 9)
    return ledger


def test_the_ledger_lists_all_that_is_held_with_its_lease():
    mesh = Mesh()
    mesh.submit()
    mesh.beat("p1", held=(Held("r", 1, 512, 2.0),))
    mesh.beat("p0", held=(Held("stranger", 3, 16, 1.0), Held("r", 1, 512, 2.0)))
    mesh.broker_beat((Held("r", 1, 2, 0.5),))
    mesh.gateway_beat(("r", 1))
    mesh.now = 1.0
    ledger = answer(mesh)
    assert [(one.member, one.request, one.slots, one.live) for one in ledger.entries] == [
        ("b", "r", 2, True),
        ("p0", "r", 512, True),
        ("p0", "stranger", 16, False),
        ("p1", "r", 512, True),
    ]
    first = ledger.entries[0]
    assert (first.age, first.lease, first.role) == (1.5, 59.0, "kv-transfer")
    assert ledger.num_entries == 4
    mesh.now = 100.0
    assert answer(mesh).entries[0].lease == 0


def test_a_ledger_too_long_for_a_message_says_how_long_it_is():
    mesh = Mesh()
    for name in mesh.prefill:
        mesh.beat(name, held=tuple(Held(f"r{index:04}", 1, 1) for index in range(3000)))
    ledger = answer(mesh)
    assert (len(ledger.entries), ledger.num_entries) == (MAX_ENTRIES, 6000)
