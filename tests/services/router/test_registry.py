import msgspec
import pytest

from common.messages import (
    LOST_MEMBER,
    PROTOCOL,
    BrokerFacts,
    DecodeFacts,
    GatewayFacts,
    Heartbeat,
    Hello,
    KvLayout,
    ModelCard,
    Peer,
    PrefillFacts,
)
from services.router.registry import Registry, Removed

MODEL = ModelCard("m", "abc", 4096)
LAYOUT = KvLayout(30, 3, 64, "float32")


def hello(role, name, incarnation=1, **changes):
    fields = {"layout": LAYOUT} if role.endswith("worker") else {}
    if role == "prefill-worker":
        fields |= {"ring": "ring", "balance": "balance", "total_slots": 1000}
    if role == "decode-worker":
        fields |= {"link": "link", "total_slots": 1000, "num_backends": 2}
    peer = Peer(name, incarnation, f"inbox-{name}-{incarnation}")
    return Hello(
        **({"protocol": PROTOCOL, "model": MODEL} | fields | changes),
        role=role,
        peer=peer,
        node="node",
    )


def registry_of(*hellos):
    registry = Registry()
    for one in hellos:
        assert registry.refusal(one) is None
        registry.add(one, 0.0)
    return registry


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        (hello("prefill-worker", "x", protocol=PROTOCOL + 1), "protocol"),
        (hello("prefill-worker", "x", ring=None), "ring"),
        (hello("prefill-worker", "x", balance=None), "balance"),
        (hello("prefill-worker", "x", layout=None), "layout"),
        (hello("prefill-worker", "x", total_slots=0), "total_slots"),
        (hello("decode-worker", "x", link=None), "link"),
        (hello("decode-worker", "x", num_backends=0), "num_backends"),
        (hello("router", "x"), "one router"),
        (hello("gateway", "x", model=ModelCard("m", "xyz", 4096)), "model xyz"),
        (hello("gateway", "x", model=ModelCard("m", "abc", 99)), "max_model_len 99"),
        (hello("decode-worker", "x", layout=KvLayout(1, 3, 64, "float32")), "KV layout"),
        (hello("decode-worker", "p"), "belongs to a prefill-worker"),
    ],
)
def test_what_does_not_belong_is_refused_with_the_reason(wrong, reason):
    registry = registry_of(hello("prefill-worker", "p"), hello("gateway", "g"))
    assert reason in registry.refusal(wrong)


def test_another_name_in_the_api_is_no_other_model():
    registry = registry_of(hello("gateway", "g"))
    other = hello("prefill-worker", "p", model=ModelCard("alias", "abc", 4096))
    assert registry.refusal(other) is None


def test_the_first_member_of_an_empty_mesh_settles_the_model():
    registry = registry_of(hello("gateway", "g"))
    assert registry.max_model_len == 4096
    registry.remove("g")
    assert registry.max_model_len is None
    assert registry.refusal(hello("gateway", "g", 2, model=ModelCard("m", "xyz", 1))) is None


def test_a_replaced_life_cannot_come_back():
    registry = registry_of(hello("prefill-worker", "p", 1))
    new = hello("prefill-worker", "p", 2)
    assert registry.refusal(new) is None
    registry.remove("p")
    registry.add(new, 1.0)
    assert "newer process" in registry.refusal(hello("prefill-worker", "p", 1))
    assert registry.find("p", 1) is None
    assert registry.find("p", 2).hello == new


def test_facts_of_a_stranger_or_of_another_role_are_not_taken():
    registry = registry_of(hello("gateway", "g", 7))
    facts = GatewayFacts(3)
    assert registry.beat(Heartbeat("gateway", "g", 8, facts), 1.0) is None
    assert registry.beat(Heartbeat("decode-worker", "g", 7, DecodeFacts(1, 1, 0, 0)), 1.0) is None
    member = registry.beat(Heartbeat("gateway", "g", 7, facts), 2.0)
    assert (member.facts, member.seen) == (facts, 2.0)


def test_what_is_in_use_is_what_all_workers_said_last():
    roles = {"p": "prefill-worker", "q": "prefill-worker", "d": "decode-worker", "k": "kv-transfer"}
    registry = registry_of(*(hello(role, name) for name, role in roles.items()))
    assert set(registry.usage().values()) == {0}
    facts = {
        "p": PrefillFacts(1, 0, 0, 100, 80),
        "q": PrefillFacts(1, 0, 0, 100, 97),
        "d": DecodeFacts(200, 150, 1, 0),
        "k": BrokerFacts(8, 3, 0),
    }
    for name, one in facts.items():
        assert registry.beat(Heartbeat(roles[name], name, 1, one), 1.0) is not None
    assert registry.usage() == {"prefill_slots": 23, "decode_slots": 50, "backends": 3}
    # More free slots than there are: no gateway would take a message that says so.
    registry.beat(Heartbeat("decode-worker", "d", 1, DecodeFacts(200, 900, 1, 0)), 1.0)
    assert registry.usage()["decode_slots"] == 0


def test_every_decode_instance_has_the_least_loaded_broker():
    registry = registry_of(hello("decode-worker", "d0"))
    assert registry.assign_brokers() == []
    for name in ("b0", "b1"):
        registry.add(hello("kv-transfer", name), 0.0)
    for index in (1, 2, 3):
        registry.add(hello("decode-worker", f"d{index}"), 0.0)
    assert len(registry.assign_brokers()) == 4
    brokers = [member.broker for member in registry.of("decode-worker")]
    assert sorted(brokers) == ["b0", "b0", "b1", "b1"]
    assert registry.assign_brokers() == []
    registry.remove("b0")
    assert [decode.broker for decode in registry.assign_brokers()] == ["b1", "b1"]


def test_a_leaving_broker_lends_on_only_while_there_is_no_other():
    registry = registry_of(hello("decode-worker", "d"), hello("kv-transfer", "b0"))
    registry.assign_brokers()
    registry.find("b0").leaving = True
    assert registry.assign_brokers() == []
    registry.add(hello("kv-transfer", "b1"), 1.0)
    assert [decode.broker for decode in registry.assign_brokers()] == ["b1"]
    registry.remove("b1")
    assert [decode.broker for decode in registry.assign_brokers()] == ["b0"]
    registry.remove("b0")
    assert [decode.broker for decode in registry.assign_brokers()] == [None]
    assert registry.assign_brokers() == []


def test_a_removed_life_is_lost_and_an_older_one_never_replaces_a_newer():
    registry = registry_of(hello("gateway", "g", 5))
    assert "newer process" in registry.refusal(hello("gateway", "g", 4))
    registry.remove("g")
    assert registry.refusal(hello("gateway", "g", 5)) == LOST_MEMBER
    assert registry.refusal(hello("gateway", "g", 6)) is None
    assert registry.removed("g", 5) == Removed("inbox-g-5", departed=False)
    registry.add(hello("gateway", "h", 1), 0.0)
    registry.remove("h", departed=True)
    assert registry.removed("h", 1).departed
    assert registry.removed("g", 6) is None


def test_those_who_leave_serve_nothing_new():
    registry = registry_of(hello("prefill-worker", "p"), hello("prefill-worker", "q"))
    registry.find("p").leaving = True
    assert [member.name for member in registry.serving("prefill-worker")] == ["q"]
    assert len(registry.of("prefill-worker")) == 2


def test_a_mesh_grows_while_workers_come_or_are_expected_back():
    registry = Registry(grace=2.0, patience=10.0)
    assert not registry.is_growing(0.0)
    worker = registry.add(hello("prefill-worker", "p"), 0.0)
    gateway = registry.add(hello("gateway", "g"), 0.0)
    assert [registry.is_growing(now) for now in (1.9, 2.0)] == [True, False]
    before = registry.version
    registry.remove("g")
    registry.miss(gateway, 5.0)
    assert not registry.is_growing(5.0)
    registry.retire(worker)
    registry.miss(worker, 5.0)
    registry.remove("p")
    assert [registry.is_growing(now) for now in (14.9, 15.0)] == [True, False]
    registry.add(hello("prefill-worker", "p", 2), 7.0)
    assert [registry.is_growing(now) for now in (8.9, 9.0)] == [True, False]
    assert registry.version == before + 4


def test_hellos_are_plain_values():
    one = hello("prefill-worker", "p")
    assert msgspec.convert(msgspec.to_builtins(one), Hello) == one
