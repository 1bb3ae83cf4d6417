import pytest
from msgspec.structs import replace

from common.messages import (
    LOST_MEMBER,
    BrokerFacts,
    Cancel,
    Heartbeat,
    KvAck,
    KvCommit,
    KvLayer,
    Loan,
    Refused,
    Welcome,
)
from tests.simulation.checks import judge
from tests.simulation.histories import (
    BROKER,
    DECODE,
    SENDER,
    codes,
    end,
    grant,
    handshake,
    release,
    replace_time,
    sent,
    took,
)
from tests.simulation.history import Event

TWO = [
    took(handshake("a", 0)),
    sent(grant("a", 0, 0, 1)),
    took(handshake("a", 1)),
    sent(grant("a", 1, 1, 1)),
]


def test_backends_go_round():
    assert judge(TWO) == []
    assert judge([*TWO, sent(grant("a", 0, 0, 1))]) == []
    waiting = [*TWO, took(handshake("b")), took(release("a", 0)), took(release("a", 1))]
    assert judge([*waiting, sent(grant("b", 0, 0, 2))]) == []
    assert judge([*TWO, took(handshake("b")), took(end("a")), sent(grant("b", 0, 1, 2))]) == []
    cancelled = [*TWO, took(handshake("b")), took(Cancel("a", 1))]
    assert judge([*cancelled, sent(grant("b", 0, 1, 2))]) == []
    last = [*TWO, took(handshake("b")), took(release("a", 0, is_last=True))]
    assert judge([*last, sent(grant("b", 0, 1, 2))]) == []


def test_a_late_handshake_of_what_is_through_asks_for_nothing():
    through = [*TWO, took(release("a", 0)), took(release("a", 1)), took(handshake("a", 0))]
    assert judge([*through, took(handshake("b")), sent(grant("b", 0, 0, 2))]) == []


def test_a_newer_attempt_ends_the_one_before():
    newer = [*TWO, took(handshake("a", attempt=2)), sent(grant("a", 0, 0, 2, attempt=2))]
    assert judge(newer) == []
    assert codes([*newer, sent(grant("a", 0, 1, 3))]) == {"I4"}


@pytest.mark.parametrize(
    "event",
    [
        sent(grant("a", 0, 1, 2)),
        sent(grant("a", 0, 0, 2)),
        sent(grant("b", 0, 0, 2)),
        sent(grant("c", 0, 0, 2)),
    ],
)
def test_a_backend_that_is_not_free_or_not_asked_for_is_found(event: Event):
    assert "I4" in codes([*TWO, took(handshake("b")), event])


def test_a_later_request_that_overtakes_is_found():
    events = [took(handshake("a")), took(handshake("b")), sent(grant("b", 0, 0, 1))]
    assert codes(events) == {"I4"}


def test_a_backend_of_a_half_transferred_request_is_not_for_others():
    half = [*TWO[:2], took(handshake("a", 1, size=3)), took(handshake("b"))]
    assert codes([*half, sent(grant("b", 0, 1, 1))]) == {"I4"}


def test_a_generation_that_was_there_before_is_found():
    events = [*TWO, took(handshake("b")), took(end("a")), sent(grant("b", 0, 1, 1))]
    assert codes(events) == {"I7"}


def test_a_fenced_broker_begins_anew_and_takes_over_what_it_is_told():
    fenced = [*TWO, took(Refused(1, LOST_MEMBER))]
    assert judge([*fenced, took(handshake("b")), sent(grant("b", 0, 0, 9))]) == []
    told = [*fenced, took(handshake("b")), took(replace(handshake("a"), held=Loan(0, 1)))]
    adopted = [*told, sent(grant("a", 0, 0, 1))]
    assert codes([*adopted, sent(grant("b", 0, 0, 9))]) == {"I4"}
    assert judge([*adopted, sent(grant("b", 0, 1, 9))]) == []
    assert codes([*told, sent(grant("a", 0, 0, 2))]) == {"I4"}


def test_an_announced_loan_may_be_replaced_by_a_newer_one():
    told = [took(replace(handshake("a"), held=Loan(0, 1))), sent(grant("a", 0, 1, 2))]
    assert judge(told) == []
    assert judge([*told, took(release("a", 1)), took(handshake("a", 1))]) == []


def test_a_broker_without_a_router_may_let_go():
    welcome = replace_time(took(Welcome(1, 1)), 0.0)
    late = [*TWO, took(handshake("b"))]
    empty = Heartbeat("kv-transfer", "broker", 1, BrokerFacts(2, 0, 0))
    again = [sent(empty, BROKER), took(handshake("c")), sent(grant("c", 0, 0, 9))]
    events = [welcome, *late, *(replace_time(event, 20.0) for event in again)]
    assert judge(events, lease=10.0) == []
    assert judge(events, lease=30.0) != []


def layer(rank: int, backend: int, generation: int) -> Event:
    place = ("a", 1, 0, rank, 3, backend, generation)
    return took(KvLayer(*place, ((0, 8),), 8, 16, SENDER, 1), DECODE)


def commit(rank: int, backend: int, generation: int) -> Event:
    place = ("a", 1, 0, rank, backend, generation)
    return took(KvCommit(*place, 2, 3, 8, 8, 16, BROKER, SENDER, 1), DECODE)


def ack(rank: int, generation: int) -> Event:
    return sent(KvAck("a", 1, 0, rank, 3, generation), DECODE, SENDER)


def test_kv_lands_under_its_own_loan_alone():
    assert judge([*TWO, layer(0, 0, 1), ack(0, 1), layer(1, 1, 1), ack(1, 1)]) == []
    assert codes([*TWO, layer(0, 0, 2), ack(0, 2)]) == {"I7"}
    assert codes([*TWO, layer(0, 1, 1), ack(0, 1)]) == {"I7"}
    assert codes([*TWO[:2], layer(1, 1, 1), ack(1, 1)]) == {"I7"}
    assert codes([*TWO, ack(0, 1)]) == {"I7"}


def test_kv_of_an_old_loan_does_not_land_but_a_repeated_commit_is_answered():
    newer = replace(handshake("a"), held=Loan(0, 1))
    events = [*TWO, layer(0, 0, 1), ack(0, 1), commit(0, 0, 1), ack(0, 1)]
    events += [took(Refused(1, LOST_MEMBER)), took(newer), sent(grant("a", 0, 0, 9))]
    events += [layer(0, 0, 9), ack(0, 9)]
    assert judge([*events, commit(0, 0, 1), ack(0, 1)]) == []
    assert judge([*events, layer(0, 0, 1)]) == []
    assert codes([*events, layer(0, 0, 1), ack(0, 1)]) == {"I7"}
