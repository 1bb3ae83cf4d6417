"""The router against naive members, in any order of joining, working, failing and dying."""

from array import array

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from common.config import Config, MeshConfig, ModelConfig, RouterConfig
from common.messages import (
    Accepted,
    Cancel,
    Ending,
    EndOfRequest,
    Failed,
    Leave,
    Message,
    Peer,
    Rejected,
    RunChunk,
    Sampling,
    Submit,
)
from common.pages import Owner
from services.router.router import Router
from tests.services.router.mesh import FIXED, hello
from tests.services.router.naive import Life

ROLES = {
    **dict.fromkeys(("p0", "p1", "p2"), "prefill-worker"),
    **dict.fromkeys(("d0", "d1"), "decode-worker"),
    "b": "kv-transfer",
    "g": "gateway",
}
BEAT = 0.5
PATIENCE = 30
"""Heartbeats in which everything must be let go of."""
numbers = st.integers(0, 1000)


class RouterMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        config = Config(
            model=ModelConfig(path="", name="m"),
            mesh=MeshConfig(heartbeat=BEAT),
            router=RouterConfig(max_queue=4, **FIXED),
        )
        self.now, self.is_lossy = 0.0, False
        self.lives: dict[str, Life] = {}
        self.inboxes: dict[str, Life] = {}
        self.said: list[tuple[Message, tuple[bytes, ...]]] = []
        self.submits: dict[Owner, tuple[Submit, bytes]] = {}
        self.groups: dict[Owner, dict[str, int]] = {}
        self.over: set[Owner] = set()
        self.told: set[Owner] = set()
        """Attempts of which the router has said that they failed."""
        self.excused: set[Owner] = set()
        """Attempts that ended without the gateway having to be told."""
        self.live: set[Owner] = set()
        self.router = Router(config, Peer("router", 77, "in-router"), self.take)
        self.router.tick(self.now)
        for name in ROLES:
            self.begin(name)

    # What the router says

    def take(self, endpoint: str, message: Message, *frames: bytes) -> None:
        if isinstance(message, RunChunk):
            self.judge(message)
        if isinstance(message, Failed | Rejected):
            self.told.add(Owner(message.request, message.attempt))
        life = self.inboxes.get(endpoint)
        if life is None or life.is_over or self.is_lossy:
            return
        if isinstance(message, Accepted):
            owner = Owner(message.request, message.attempt)
            if owner not in life.ended:
                life.open.add(owner)
        life.take(message)

    def judge(self, run: RunChunk) -> None:
        """I9: one plan for an attempt, of members that the router counts as alive."""
        owner = Owner(run.request, run.attempt)
        group = {member.name: member.incarnation for member in run.members}
        assert self.groups.setdefault(owner, group) == group
        for name, incarnation in (*group.items(), (run.target.name, run.target.incarnation)):
            assert self.router.books.registry.find(name, incarnation) is not None
        sizes = [chunk.size for chunk in run.chunks]
        assert sizes == sorted(sizes)
        assert sizes[-1] == len(group)

    # What members say

    def give(self, message: Message, *frames: bytes, note: bool = True) -> None:
        if note:
            self.said.append((message, frames))
        self.router.handle(message, frames, self.now)  # type: ignore[arg-type]
        self.level()

    def level(self) -> None:
        """Note what is over, and that it stays so."""
        owners = self.router.books.requests.owners
        assert not owners & self.over
        gone = self.live - owners
        unexplained = gone - self.told - self.excused
        newer = {one for one in unexplained if (one.request, one.attempt + 1) in owners}
        assert unexplained == newer
        self.over |= gone
        self.live = set(owners)

    def begin(self, name: str) -> None:
        old = self.lives.get(name)
        incarnation = 1 if old is None else old.incarnation + 1
        if old is not None:
            old.is_over = True
        if ROLES[name] == "gateway":
            self.excused |= set(self.submits)
        life = self.lives[name] = Life(hello(ROLES[name], name, incarnation))
        self.inboxes[life.hello.peer.inbox] = life
        self.give(life.hello)

    def alive(self, role: str) -> list[Life]:
        return [one for one in self.lives.values() if one.hello.role == role and not one.is_over]

    def submit(self, owner: Owner, length: int) -> None:
        life = self.lives["g"]
        submit = Submit(*owner, life.hello.peer, length, 0, Sampling(), Ending(10))
        self.submits[owner] = submit, array("i", range(length)).tobytes()
        self.give(submit, self.submits[owner][1])

    def pick(self, owners: "set[Owner] | list[Owner]", number: int) -> Owner | None:
        ordered = sorted(owners)
        return ordered[number % len(ordered)] if ordered else None

    # Rules

    @rule(name=st.sampled_from(sorted(ROLES)))
    def a_member_begins_a_new_life(self, name: str) -> None:
        self.begin(name)

    @rule(length=st.sampled_from((1, 100, 3000, 8000)))
    def a_request_comes(self, length: int) -> None:
        if not self.lives["g"].is_over:
            self.submit(Owner(f"r{len(self.submits)}", 1), length)

    @rule(number=numbers)
    def a_gateway_repeats_itself(self, number: int) -> None:
        owner = self.pick(set(self.submits), number)
        if owner is not None:
            submit, ids = self.submits[owner]
            self.give(submit, ids)

    @rule(number=numbers)
    def a_failed_request_is_tried_again(self, number: int) -> None:
        owner = self.pick(self.lives["g"].failed, number)
        following = owner and Owner(owner.request, owner.attempt + 1)
        if owner and following and following not in self.submits:
            self.submit(following, self.submits[owner][0].num_tokens)

    @rule(number=numbers, times=st.integers(1, 4))
    def a_member_computes(self, number: int, times: int) -> None:
        lives = self.alive("prefill-worker")
        for life in lives[number % len(lives) :][:1] if lives else []:
            for _ in range(times):
                for message in life.compute():
                    self.give(message)

    @rule(number=numbers)
    def a_member_releases(self, number: int) -> None:
        for life in self.alive("prefill-worker"):
            owner = self.pick(set(life.held), number)
            released = owner and life.release(owner)
            if released:
                self.give(released)

    @rule(number=numbers)
    def decode_admits(self, number: int) -> None:
        owner = self.pick(self.live, number)
        request = self.router.books.requests.get(owner) if owner else None
        if owner is None or request is None or request.decode is None:
            return
        life = self.lives[request.decode]
        if not life.is_over and owner not in life.held and owner not in life.ended:
            self.give(life.admit(owner, 16))

    @rule(number=numbers, fails=st.booleans())
    def decode_ends(self, number: int, fails: bool) -> None:
        for life in self.alive("decode-worker"):
            owner = self.pick(life.admitted, number)
            if owner is None:
                continue
            sender = life.hello.peer.inbox
            message: EndOfRequest | Failed = EndOfRequest(*owner, 5, "length", sender)
            if fails:
                message = Failed(*owner, "decode", "test", True, sender=sender)
            else:
                self.excused.add(owner)
            life.end(message)
            self.give(message)

    @rule(number=numbers)
    def a_client_leaves(self, number: int) -> None:
        owner = self.pick(set(self.submits), number)
        if owner is not None:
            self.excused.add(owner)
            self.lives["g"].end(Cancel(*owner))
            self.give(Cancel(*owner))

    @rule(name=st.sampled_from(sorted(ROLES)))
    def a_member_wants_to_go(self, name: str) -> None:
        life = self.lives[name]
        if not life.is_over:
            self.give(Leave(name, life.incarnation))

    @rule(number=numbers)
    def something_comes_again_or_late(self, number: int) -> None:
        message, frames = self.said[-1 - number % min(len(self.said), 40)]
        self.give(message, *frames, note=False)

    @rule(is_lossy=st.booleans())
    def the_network_changes(self, is_lossy: bool) -> None:
        self.is_lossy = is_lossy

    @rule(silent=st.sets(st.sampled_from(sorted(ROLES)), max_size=2), beats=st.integers(1, 8))
    def time_passes(self, silent: set[str], beats: int) -> None:
        for _ in range(beats):
            self.round(silent)

    @precondition(lambda self: self.live)
    @rule()
    def the_router_stands_still(self) -> None:
        names = {member.name for member in self.router.books.registry.members}
        self.now += 10.0
        self.tick()
        assert {member.name for member in self.router.books.registry.members} == names

    def round(self, silent: "set[str] | frozenset[str]" = frozenset()) -> None:
        self.now += BEAT / 2
        self.tick()
        for name, life in self.lives.items():
            if name not in silent and not life.is_over:
                if name == "g":
                    # What it does not list it hears of when it repeats its Submit.
                    self.excused |= self.live - life.open
                self.give(life.beat() if life.is_member else life.hello, note=False)
        self.now += BEAT / 2
        self.tick()

    def tick(self) -> None:
        before = self.live
        self.excused |= {
            owner for owner in before if self.submits[owner][0].reply != self.lives["g"].hello.peer
        }
        self.router.tick(self.now)
        gateways = {one.hello.peer for one in self.router.books.registry.of("gateway")}
        self.excused |= {one for one in before if self.submits[one][0].reply not in gateways}
        self.level()

    # What holds at any time

    @invariant()
    def slots_add_up(self) -> None:
        """I3: nothing is promised twice."""
        memory = self.router.books.memory
        assert all(free >= 0 for free in memory.free().values())
        assert set(memory.totals()) == {
            one.name for one in self.router.books.registry.of("prefill-worker")
        }

    @invariant()
    def books_name_what_lives(self) -> None:
        """I6, I9: chunks and promises are of living attempts on living members."""
        books = self.router.books
        assert {task.owner for task in books.pool.tasks} <= self.live
        assert books.placement.owners <= self.live
        for task in books.pool.tasks:
            for name in task.pending:
                assert books.registry.find(name, self.groups[task.owner][name]) is not None
        for owner in self.live & self.groups.keys():
            request = books.requests.get(owner)
            assert request is not None
            if request.plan is not None and not request.admitted:
                group = self.groups[owner].items()
                assert all(books.registry.find(*member) is not None for member in group)

    @invariant()
    def queues_are_bounded(self) -> None:
        assert self.router.books.requests.num_waiting <= 8

    def teardown(self) -> None:
        """Everybody comes back, every client goes: nothing is left in any book."""
        self.is_lossy = False
        for name, life in self.lives.items():
            if life.is_over:
                self.begin(name)
        for owner in sorted(self.live):
            self.excused.add(owner)
            self.lives["g"].end(Cancel(*owner))
            self.give(Cancel(*owner))
        for _ in range(PATIENCE):
            self.settle()
            if self.router.books.quiescent():
                break
        assert self.router.books.quiescent()
        assert not any(self.router.books.pool.delays(self.now).values())

    def settle(self) -> None:
        for name in [name for name, life in self.lives.items() if life.is_over]:
            self.begin(name)
        self.round()
        for life in self.alive("prefill-worker"):
            while messages := life.compute() or (life.finished < life.received and [None]):
                for message in messages:
                    if message is not None:
                        self.give(message)
            for owner in sorted(life.held):
                if owner not in self.live:
                    released = life.release(owner)
                    assert released is not None
                    self.give(released)


TestRouterMachine = RouterMachine.TestCase
TestRouterMachine.settings = settings(
    max_examples=60,
    stateful_step_count=40,
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)
