import random
from collections import defaultdict
from itertools import permutations

from hypothesis import given
from hypothesis import strategies as st

from common.messages import Grant, Handshake, Peer, Release, Target
from common.pages import Owner
from services.kv_transfer.receive_manager import MAX_REQUESTS, Granted, ReceiveManager

TARGET = Target("decode-1", 7, "tcp://d:1", "tcp://d:2", 2, "tcp://b:1")


NOW = 5.0


def shake(
    request: str,
    chunk: int = 0,
    rank: int = 0,
    transfers: int = 1,
    senders: int = 1,
    attempt: int = 1,
) -> Handshake:
    sender = Peer(f"prefill-{rank}", 1, f"tcp://p:{rank + 1}")
    return Handshake(request, attempt, chunk, rank, sender, TARGET, transfers, senders)


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


class Senders:
    """Senders that shake hands in any order, repeat themselves, and release in any order."""

    def __init__(self, num_backends: int, plans: list[list[int]], seed: int) -> None:
        self.random = random.Random(seed)
        self.manager = ReceiveManager(num_backends)
        self.plans = {f"r{number}": plan for number, plan in enumerate(plans)}
        self.todo = {
            name: [(chunk, rank) for chunk, size in enumerate(plan) for rank in range(size)]
            for name, plan in self.plans.items()
        }
        self.asked: dict[str, set[tuple[int, int]]] = defaultdict(set)
        self.first_asked: list[str] = []
        self.granted: dict[tuple[str, int, int], Grant] = {}
        self.done: set[tuple[str, int, int]] = set()
        self.generations: dict[int, int] = defaultdict(int)

    def _message(self, name: str, chunk: int, rank: int) -> Handshake:
        return shake(name, chunk, rank, sum(self.plans[name]), max(self.plans[name]))

    def _record(self, loans: list[Granted]) -> None:
        for loan in loans:
            grant = loan.grant
            key = (grant.request, grant.chunk, grant.rank)
            if key in self.granted:
                assert self.granted[key] == grant
                continue
            assert grant.generation > self.generations[grant.backend]
            assert grant.backend not in {held.backend for held in self.granted.values()}
            self.generations[grant.backend] = grant.generation
            self.granted[key] = grant

    def _check(self) -> None:
        manager = self.manager
        assert manager.lent == len(self.granted) <= manager.reserved <= manager.num_backends
        unfinished = [
            name
            for name in self.first_asked
            if sum(done[0] == name for done in self.done) < sum(self.plans[name])
        ]
        if unfinished:  # the first in order never waits behind a later one
            oldest = unfinished[0]
            asking = {(oldest, *transfer) for transfer in self.asked[oldest]} - self.done
            assert any(key in self.granted for key in asking) or not asking
        else:
            assert manager.reserved == 0

    def step(self) -> None:
        name = self.random.choice(list(self.plans))
        if self.granted and self.random.random() < 0.4:
            key = self.random.choice(list(self.granted))
            del self.granted[key]
            self.done.add(key)
            self._record(self.manager.release(release(*key)))
            assert self.manager.release(release(*key)) == []
        elif self.todo[name]:
            index = self.random.randrange(len(self.todo[name]))
            repeat = self.random.random() < 0.3
            transfer = self.todo[name][index] if repeat else self.todo[name].pop(index)
            if name not in self.first_asked:
                self.first_asked.append(name)
            self.asked[name].add(transfer)
            self._record(self.manager.handshake(self._message(name, *transfer), NOW))
        self._check()

    def is_done(self) -> bool:
        return len(self.done) == sum(map(sum, self.plans.values()))


PLANS = st.lists(st.lists(st.integers(1, 4), min_size=1, max_size=4), min_size=1, max_size=4)


@given(st.integers(1, 5), PLANS, st.integers(0, 2**32))
def test_any_interleaving_ends_with_everything_transferred_and_free(
    num_backends: int, plans: list[list[int]], seed: int
) -> None:
    senders = Senders(num_backends, plans, seed)
    for _ in range(4000):
        if senders.is_done():
            break
        senders.step()
    assert senders.is_done()
    assert (senders.manager.reserved, senders.manager.waiting) == (0, 0)


def test_every_order_of_first_handshakes_is_the_order_of_the_grants() -> None:
    for order in permutations("abc"):
        manager = ReceiveManager(1)
        granted = [
            name for name in order for name in requests_of(manager.handshake(shake(name), NOW))
        ]
        for name in order:
            granted += requests_of(manager.release(release(name)))
        assert granted == list(order)
