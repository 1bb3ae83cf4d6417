"""Hand-overs in any order against a receive manager: repeated, late, ended, and taken over.

The model knows what every sender was granted, which transfers the living manager counts as under
way, and the newest loan that the receiver has seen on each backend.
"""

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from common.messages import Grant, Handshake, Loan, Peer, Release, Target
from common.pages import Owner
from services.kv_transfer.receive_manager import Granted, ReceiveManager

TARGET = Target("decode-1", 7, "tcp://d:1", "tcp://d:2", 2, "tcp://b:1")
SIZES = {"a": (1, 2), "b": (3,), "c": (1, 1, 2), "d": (1,), "e": (2, 2)}
KEYS = [
    (name, chunk, rank)
    for name, sizes in SIZES.items()
    for chunk, size in enumerate(sizes)
    for rank in range(size)
]
Key = tuple[str, int, int]


class HandoverMachine(RuleBasedStateMachine):
    """Senders, receiver and broker of one decode instance."""

    @initialize(num_backends=st.integers(1, 4))
    def begin(self, num_backends: int) -> None:
        self.now = 0.0
        self.num_takeovers = 0
        self.lends_from = float("-inf")
        self.manager = ReceiveManager(num_backends)
        self.order: list[str] = []  # of first handshakes with the living manager
        self.asked: set[Key] = set()
        self.under_way: dict[Key, Grant] = {}  # as the living manager has to see it
        self.served: set[str] = set()
        self.adopted: set[str] = set()
        self.loans: dict[Key, Grant] = {}  # as the senders know them
        self.issued = dict.fromkeys(range(num_backends), 0)
        self.seen = dict.fromkeys(range(num_backends), 0)
        self.done: set[Key] = set()
        self.released_here: set[Key] = set()
        self.over: set[str] = set()

    @rule(key=st.sampled_from(KEYS), announces=st.booleans())
    def shake(self, key: Key, announces: bool) -> None:
        """A sender asks, for the first time or again; what it holds it mostly announces."""
        name, chunk, rank = key
        if key in self.done - self.released_here and name not in self.over:
            return
        loan = self.loans.get(key) if announces else None
        sender = Peer(f"p{rank}", 1, f"tcp://p:{rank}")
        held = Loan(loan.backend, loan.generation) if loan else None
        sizes = SIZES[name]
        message = Handshake(name, 1, chunk, rank, sender, TARGET, sum(sizes), max(sizes), held)
        if key not in self.done and name not in self.over:
            self.asked.add(key)
            if name not in self.order:
                self.order.append(name)
        self.record(self.manager.handshake(message, self.now))

    @precondition(lambda self: self.usable())
    @rule(data=st.data())
    def finish(self, data: st.DataObject) -> None:
        """All of a transfer has come under a loan that is not too old."""
        self.arrive(data.draw(st.sampled_from(self.usable())))

    @precondition(lambda self: self.done)
    @rule(data=st.data())
    def release_again(self, data: st.DataObject) -> None:
        """A release comes twice."""
        key = data.draw(st.sampled_from(sorted(self.done)))
        if key in self.released_here:
            assert self.manager.release(self.release_of(key)) == []

    @rule(name=st.sampled_from("de"))
    def end(self, name: str) -> None:
        """A request is given up."""
        self.drop(name)
        self.record(self.manager.end(Owner(name, 1)))

    @rule()
    def pass_time(self) -> None:
        """A broker's tick."""
        self.now += 0.5
        self.record(self.manager.advance(self.now))

    @rule(is_quiet=st.booleans())
    def restart(self, is_quiet: bool) -> None:
        """Another broker takes over, and knows nothing."""
        self.num_takeovers += 1
        self.lends_from = self.now + 1.0 if is_quiet else float("-inf")
        base = max(self.issued.values()) + 1000
        self.manager = ReceiveManager(len(self.issued), base, self.lends_from)
        for forgotten in (self.asked, self.order, self.under_way, self.served, self.adopted):
            forgotten.clear()
        self.released_here.clear()
        for name in self.over:  # as the router's levelling tells every broker
            self.manager.end(Owner(name, 1))

    @invariant()
    def counts_agree(self) -> None:
        """Every backend is free, reserved, or lent to one transfer alone."""
        backends = [grant.backend for grant in self.under_way.values()]
        assert len(set(backends)) == len(backends)
        assert self.manager.lent == len(backends)
        assert self.manager.lent <= self.manager.reserved <= len(self.issued)
        for held in self.manager.held(self.now):
            assert held.slots <= min(max(SIZES[held.request]), len(self.issued))
        assert self.manager.waiting == len(self.asking() - set(self.under_way))

    @invariant()
    def nobody_starves(self) -> None:
        """Who has begun goes on, and the first in order waits for nobody who came later."""
        if self.now < self.lends_from:
            return
        unfinished = [name for name in self.order if self.asking(name)]
        running = {key[0] for key in self.under_way}
        assert self.served & set(unfinished) <= running
        if unfinished and unfinished[0] not in running:
            assert running <= self.adopted

    def teardown(self) -> None:
        """Everybody goes on to the end; nothing is left."""
        for _ in range(4 * len(KEYS)):
            self.pass_time()
            for key in KEYS:
                if key not in self.done and key[0] not in self.over:
                    self.shake(key, True)
            for key in self.usable()[:1]:
                self.arrive(key)
            # Who tells the third broker of a loan that the second never heard of may come too
            # late: the receiver has seen a newer one. The sender stalls, and its attempt fails.
            for key in set(self.under_way) - set(self.usable()):
                assert self.num_takeovers > 1
                self.end(key[0])
            self.counts_agree()
            self.nobody_starves()
        assert self.done >= {key for key in KEYS if key[0] not in self.over}
        assert (self.manager.reserved, self.manager.waiting) == (0, 0)
        assert self.manager.is_idle

    def record(self, loans: list[Granted]) -> None:
        for _, grant in loans:
            key = (grant.request, grant.chunk, grant.rank)
            assert key in self.asked
            if key in self.under_way:
                assert self.under_way[key] == grant
                continue
            if grant == self.loans.get(key):
                self.adopted.add(key[0])
            else:
                assert self.now >= self.lends_from
                assert grant.generation > self.issued[grant.backend]
            self.issued[grant.backend] = max(self.issued[grant.backend], grant.generation)
            self.under_way[key] = self.loans[key] = grant
            self.served.add(key[0])

    def arrive(self, key: Key) -> None:
        grant = self.loans.pop(key)
        self.seen[grant.backend] = grant.generation
        self.done.add(key)
        self.released_here.add(key)
        self.asked.discard(key)
        self.under_way.pop(key, None)
        message = self.release_of(key)
        if message.is_last:
            self.drop(key[0])
        self.record(self.manager.release(message))

    def drop(self, name: str) -> None:
        self.over.add(name)
        self.asked = {key for key in self.asked if key[0] != name}
        for held in (self.under_way, self.loans):
            for key in [key for key in held if key[0] == name]:
                del held[key]

    def release_of(self, key: Key) -> Release:
        name = key[0]
        is_last = {other for other in KEYS if other[0] == name} <= self.done
        return Release(*_place(key), TARGET.name, TARGET.incarnation, is_last)

    def usable(self) -> list[Key]:
        """Transfers whose loan the receiver takes."""
        return [
            key for key, grant in self.loans.items() if grant.generation >= self.seen[grant.backend]
        ]

    def asking(self, name: str | None = None) -> set[Key]:
        return {key for key in self.asked if name in (None, key[0])}


def _place(key: Key) -> tuple[str, int, int, int]:
    name, chunk, rank = key
    return name, 1, chunk, rank
