from itertools import permutations

import pytest
from hypothesis import settings
from msgspec import structs

from common.messages import Grant, Handshake, Held, Loan, Peer, Release, Target
from common.pages import Owner
from services.kv_transfer.receive_manager import MAX_REQUESTS, Granted, ReceiveManager
from tests.services.kv_transfer.handover_machine import HandoverMachine

TARGET = Target("decode-1", 7, "tcp://d:1", "tcp://d:2", 2, "tcp://b:1")


NOW = 5.0


def shake(
    request: str,
    chunk: int = 0,
    rank: int = 0,
    transfers: int = 1,
    senders: int = 1,
    attempt: int = 1,
    held: Loan | None = None,
) -> Handshake:
    sender = Peer(f"prefill-{rank}", 1, f"tcp://p:{rank + 1}")
    return Handshake(request, attempt, chunk, rank, sender, TARGET, transfers, senders, held)


def release(request: str, chunk: int = 0, rank: int = 0, attempt: int = 1) -> Release:
    return Release(request, attempt, chunk, rank, TARGET.name, TARGET.incarnation)


def requests_of(loans: list[Granted]) -> list[str]:
    return [loan.grant.request for loan in loans]


def test_a_free_backend_is_granted_at_once_to_the_senders_inbox() -> None:
    manager = ReceiveManager(2)
    assert manager.handshake(shake("a", chunk=3, rank=1), NOW) == [
        Granted("tcp://p:2", Grant("a", 1, 3, 1, 0, 1))
    ]


def test_grants_follow_first_handshakes_with_one_backend_and_three_requests() -> None:
    manager = ReceiveManager(1)
    assert requests_of(manager.handshake(shake("a", chunk=0, transfers=2), NOW)) == ["a"]
    assert manager.handshake(shake("c", chunk=0, transfers=2), NOW) == []
    assert manager.handshake(shake("b"), NOW) == []
    # The backend stays with a until its second chunk is through, though others wait longer.
    assert manager.release(release("a", 0)) == []
    assert manager.handshake(shake("c", chunk=1, transfers=2), NOW) == []
    assert requests_of(manager.handshake(shake("a", chunk=1, transfers=2), NOW)) == ["a"]
    assert requests_of(manager.release(release("a", 1))) == ["c"]
    assert requests_of(manager.release(release("c", 0))) == ["c"]
    assert requests_of(manager.release(release("c", 1))) == ["b"]
    assert manager.release(release("b")) == []
    assert (manager.reserved, manager.lent, manager.waiting) == (0, 0, 0)


def test_senders_of_a_request_take_turns_in_order_of_their_handshakes() -> None:
    manager = ReceiveManager(1)
    manager.handshake(shake("a", rank=2, transfers=3, senders=3), NOW)
    for rank in (0, 1):
        assert manager.handshake(shake("a", rank=rank, transfers=3, senders=3), NOW) == []
    assert [loan.grant.rank for loan in manager.release(release("a", rank=2))] == [0]
    assert [loan.grant.rank for loan in manager.release(release("a", rank=0))] == [1]


def test_a_later_request_gets_only_what_no_earlier_one_wants() -> None:
    manager = ReceiveManager(3)
    manager.handshake(shake("a", transfers=2, senders=2), NOW)
    assert manager.reserved == 2  # both, though only one sender has come
    assert requests_of(manager.handshake(shake("b", transfers=2, senders=2), NOW)) == ["b"]
    assert manager.handshake(shake("b", rank=1, transfers=2, senders=2), NOW) == []
    assert requests_of(manager.handshake(shake("a", rank=1, transfers=2, senders=2), NOW)) == ["a"]
    manager.release(release("a", rank=0))
    assert requests_of(manager.release(release("a", rank=1))) == ["b"]


def test_a_repeated_handshake_gets_the_same_grant_until_its_release() -> None:
    manager = ReceiveManager(1)
    first = manager.handshake(shake("a", transfers=2), NOW)
    assert manager.handshake(shake("a", transfers=2), NOW) == first
    manager.release(release("a"))
    assert manager.handshake(shake("a", transfers=2), NOW) == []
    assert manager.release(release("a")) == []
    assert manager.lent == 0


def test_an_ended_request_gives_everything_back_and_does_not_return() -> None:
    manager = ReceiveManager(1)
    manager.handshake(shake("a", transfers=4), NOW)
    manager.handshake(shake("b"), NOW)
    assert requests_of(manager.end(Owner("a", 1))) == ["b"]
    assert manager.end(Owner("a", 1)) == []
    assert manager.handshake(shake("a", chunk=1, transfers=4), NOW) == []
    manager.release(release("b"))
    assert manager.handshake(shake("a", chunk=1, transfers=4), NOW) == []
    assert (manager.reserved, manager.waiting) == (0, 0)


def test_a_newer_attempt_ends_the_older_one() -> None:
    manager = ReceiveManager(1)
    manager.handshake(shake("a", transfers=4), NOW)
    loans = manager.handshake(shake("a", attempt=2), NOW)
    assert [(loan.grant.attempt, loan.grant.generation) for loan in loans] == [(2, 2)]
    assert manager.handshake(shake("a", transfers=4), NOW) == []


def test_more_transfers_than_announced_are_not_taken() -> None:
    manager = ReceiveManager(1)
    manager.handshake(shake("a", transfers=1), NOW)
    assert manager.handshake(shake("a", chunk=1, transfers=9), NOW) == []
    assert manager.waiting == 0


def test_requests_beyond_the_limit_wait_to_be_repeated() -> None:
    manager = ReceiveManager(1)
    for number in range(MAX_REQUESTS + 1):
        manager.handshake(shake(f"r{number}"), NOW)
    assert manager.waiting == MAX_REQUESTS - 1
    manager.release(release("r0"))
    manager.handshake(shake(f"r{MAX_REQUESTS}"), NOW)
    assert manager.waiting == MAX_REQUESTS - 1


def test_generations_start_above_the_one_given() -> None:
    manager = ReceiveManager(1, generation=100)
    assert manager.handshake(shake("a"), NOW)[0].grant.generation == 101


def test_loans_are_newer_than_those_that_another_broker_may_have_given_meanwhile() -> None:
    manager = ReceiveManager(1, generation=10)
    assert manager.handshake(shake("a"), NOW)[0].grant.generation == 11
    manager.handshake(shake("b"), NOW)
    manager.renew(50)
    assert manager.end(Owner("a", 1))[0].grant.generation == 51
    manager.renew(20)  # an old one changes nothing
    manager.handshake(shake("c"), NOW)
    assert manager.end(Owner("b", 1))[0].grant.generation == 52


def announced(backend: int, generation: int, **changes: int) -> Handshake:
    return shake("a", transfers=3, senders=2, held=Loan(backend, generation), **changes)


def test_an_announced_loan_is_taken_over_and_later_ones_are_newer() -> None:
    manager = ReceiveManager(2, generation=10, lends_from=1.0)
    taken = Granted("tcp://p:1", Grant("a", 1, 0, 0, 1, 50))
    assert manager.handshake(announced(1, 50), 0.0) == [taken]
    assert manager.handshake(announced(1, 50), 0.0) == [taken]
    assert (manager.lent, manager.reserved) == (1, 1)
    assert manager.advance(1.0) == []
    [other] = manager.handshake(shake("a", rank=1, transfers=3, senders=2), 1.0)
    assert (other.grant.backend, other.grant.generation) == (0, 11)
    manager.release(release("a"))
    [newer] = manager.handshake(shake("a", chunk=1, transfers=3, senders=2), 1.0)
    assert (newer.grant.backend, newer.grant.generation) == (1, 51)


def test_a_new_life_lends_nothing_until_its_time_has_come() -> None:
    manager = ReceiveManager(2, lends_from=1.0)
    assert manager.handshake(shake("b"), 0.0) == []
    assert requests_of(manager.handshake(announced(0, 7), 0.5)) == ["a"]
    assert manager.handshake(shake("a", rank=1, transfers=3, senders=2), 0.5) == []
    assert manager.release(release("a")) == manager.advance(0.9) == []
    assert sorted(requests_of(manager.advance(1.0))) == ["a", "b"]
    assert manager.advance(2.0) == []


@pytest.mark.parametrize(("backend", "generation"), [(0, 9), (2, 9), (1, 100), (1, 2**62), (1, 0)])
def test_a_loan_that_is_anothers_unknown_or_stale_gets_a_new_one_in_its_turn(
    backend: int, generation: int
) -> None:
    manager = ReceiveManager(2, generation=100)
    first = manager.handshake(shake("x"), NOW) + manager.handshake(shake("y"), NOW)
    assert [loan.grant.backend for loan in first] == [0, 1]
    manager.release(release("y"))
    manager.handshake(shake("z"), NOW)
    assert manager.handshake(announced(backend, generation), NOW) == []
    [granted] = manager.release(release("x"))
    assert granted.grant.request == "a"
    assert granted.grant.generation > 100


def test_a_loan_older_than_one_that_came_back_is_not_taken_over() -> None:
    manager = ReceiveManager(1, generation=100)
    manager.handshake(shake("x"), NOW)
    manager.release(release("x"))
    [granted] = manager.handshake(announced(0, 99), NOW)
    assert granted.grant.generation == 102


def test_a_request_takes_no_more_over_than_it_can_use() -> None:
    manager = ReceiveManager(2, lends_from=9.0)
    for rank, held in enumerate((Loan(0, 5), Loan(1, 5))):
        manager.handshake(shake("a", rank=rank, transfers=2, held=held), 0.0)
    assert (manager.lent, manager.reserved, manager.waiting) == (1, 1, 1)


def test_the_last_release_frees_a_request_whatever_was_counted() -> None:
    manager = ReceiveManager(1)
    manager.handshake(announced(0, 5), NOW)
    manager.handshake(shake("b"), NOW)
    over = structs.replace(release("a", chunk=2), is_last=True)
    assert requests_of(manager.release(over)) == ["b"]
    assert manager.release(over) == manager.handshake(announced(0, 5), NOW) == []


def test_a_release_that_overtakes_its_handshake_wins() -> None:
    manager = ReceiveManager(1)
    assert manager.release(release("a")) == []
    assert manager.handshake(announced(0, 5), NOW) == []
    assert (manager.lent, manager.waiting) == (0, 0)


def test_a_waiting_transfer_that_is_through_wants_no_backend_any_more() -> None:
    manager = ReceiveManager(1)
    manager.handshake(shake("b"), NOW)
    manager.handshake(announced(0, 5), NOW)
    assert manager.waiting == 1
    manager.release(release("a"))
    assert manager.waiting == 0
    assert manager.release(release("b")) == []


def test_what_is_held_is_told_with_its_age() -> None:
    manager = ReceiveManager(2)
    manager.handshake(shake("a", transfers=2, senders=2), 1.0)
    manager.handshake(shake("b"), 3.0)
    assert list(manager.held(4.0)) == [Held("a", 1, 2, age=3.0), Held("b", 1, 0, age=1.0)]
    manager.end(Owner("a", 1))
    assert [held.slots for held in manager.held(4.0)] == [1]
    manager.end(Owner("b", 1))
    assert manager.is_idle


def test_every_order_of_first_handshakes_is_the_order_of_the_grants() -> None:
    for order in permutations("abc"):
        manager = ReceiveManager(1)
        granted = [
            name for name in order for name in requests_of(manager.handshake(shake(name), NOW))
        ]
        for name in order:
            granted += requests_of(manager.release(release(name)))
        assert granted == list(order)


TestHandovers = HandoverMachine.TestCase
TestHandovers.settings = settings(max_examples=100, stateful_step_count=50, deadline=None)


def test_the_oldest_handshake_without_a_backend_ages_from_when_it_was_first_heard() -> None:
    manager = ReceiveManager(1)
    manager.handshake(shake("a", chunk=0, transfers=2), NOW)
    assert manager.oldest(NOW + 9) == 0.0
    manager.handshake(shake("b"), NOW + 1)
    manager.handshake(shake("a", chunk=1, transfers=2), NOW + 2)
    manager.handshake(shake("b"), NOW + 3)
    assert manager.oldest(NOW + 4) == 3.0
    manager.end(Owner("b", 1))
    assert manager.oldest(NOW + 4) == 2.0
    manager.release(release("a", 0))
    assert manager.oldest(NOW + 4) == 0.0
