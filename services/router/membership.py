"""Who comes, who is silent, who wants to go, and what each of them is told."""

from common.config import MeshConfig
from common.messages import (
    LOST_MEMBER,
    UNKNOWN_MEMBER,
    Brokerage,
    Drain,
    Draining,
    Failed,
    Goodbye,
    Heartbeat,
    Hello,
    Leave,
    Peer,
    Refused,
    Welcome,
)
from common.pages import Owner
from services.router.attempts import Attempts
from services.router.books import Books
from services.router.planning import Send
from services.router.registry import Registered

MAX_BROKERAGES = 256
"""Entries of a Welcome."""


class Membership:
    """The router's side of every membership; `peer` is the router itself."""

    def __init__(
        self, config: MeshConfig, peer: Peer, books: Books, attempts: Attempts, send: Send
    ) -> None:
        self._dead_after = config.dead_after
        self._peer = peer
        self._books = books
        self._attempts = attempts
        self._send = send

    def hello(self, hello: Hello, now: float) -> None:
        """Take a member in, welcome it again, or refuse it."""
        registry, peer = self._books.registry, hello.peer
        reason = registry.refusal(hello)
        if reason is not None:
            self._send(peer.inbox, Refused(peer.incarnation, reason[:2048]))
            return
        member = registry.find(peer.name)
        if member is not None and member.hello.peer.incarnation != peer.incarnation:
            self.lose(peer.name, "a new process has taken its name", now)
            member = None
        if member is None:
            member = registry.add(hello, now)
            self._books.join(member)
        member.seen = now
        if member.name not in self._assign_brokers():
            self.welcome(member)

    def heartbeat(self, heartbeat: Heartbeat, now: float) -> Registered | None:
        """Note a member's facts and renew its leases; None when this life is no member."""
        member = self._books.registry.beat(heartbeat, now)
        if member is not None:
            self.welcome(member)
            return member
        removed = self._books.registry.removed(heartbeat.name, heartbeat.incarnation)
        if removed is not None and removed.departed:
            self._send(removed.inbox, Goodbye(heartbeat.incarnation))
        elif removed is not None:
            self._send(removed.inbox, Refused(heartbeat.incarnation, LOST_MEMBER))
        elif heartbeat.inbox is not None:
            self._send(heartbeat.inbox, Refused(heartbeat.incarnation, UNKNOWN_MEMBER))
        return None

    def welcome(self, member: Registered) -> None:
        """Tell a member all that it has to know of the mesh."""
        welcome = Welcome(
            epoch=self._peer.incarnation,
            incarnation=member.hello.peer.incarnation,
            broker=self._broker_of(member),
            brokers=self._brokerages() if member.role == "prefill-worker" else (),
            leave=member.ordered,
        )
        self._send(member.inbox, welcome)

    def leave(self, leave: Leave, now: float) -> bool:
        """Plan nothing more for a member that wants to go; False for a stranger."""
        registry = self._books.registry
        member = registry.find(leave.name, leave.incarnation)
        if member is not None:
            member.asked = True
            self._set_leaving(member, now)
            if member.role == "kv-transfer":
                self.part(member)
            return True
        removed = registry.removed(leave.name, leave.incarnation)
        if removed is None:
            return False
        life = leave.incarnation
        answer = Goodbye(life) if removed.departed else Refused(life, LOST_MEMBER)
        self._send(removed.inbox, answer)
        return True

    def drain(self, drain: Drain, now: float) -> None:
        """An operator wants a member to go for good."""
        refusal = None
        member = self._books.registry.find(drain.name)
        if drain.name == self._peer.name:
            refusal = f"{drain.name} is the router, which the mesh cannot do without"
        elif member is None:
            refusal = f"no member is named {drain.name}"
        else:
            member.ordered = True
            self._set_leaving(member, now)
            self.welcome(member)
        self._send(drain.reply, Draining(drain.query, refusal))

    def part(self, member: Registered) -> None:
        """Let a leaving member go if nobody would miss it; its facts are of now.

        Nobody misses a broker: another one takes its loans over, today or when there is one.
        """
        if not member.asked:
            return
        peer = member.hello.peer
        is_free = member.facts is not None and member.facts.idle
        is_free = is_free and not self._books.requests.needing(peer)
        if is_free or member.role == "kv-transfer":
            self._send(member.inbox, Goodbye(peer.incarnation))
            self._remove(member, departed=True)
            self._assign_brokers()

    def lose(self, name: str, why: str, now: float) -> None:
        """Take a member out: what needs it becomes a new attempt, its books are closed."""
        member = self._books.registry.find(name)
        if member is None:
            return
        peer = member.hello.peer
        needing = self._books.requests.needing(peer)
        self._remove(member, departed=False)
        self._books.registry.miss(member, now)
        self._assign_brokers()
        for request in needing:
            failed = Failed(*request.owner, f"{name} is lost", why, retryable=True)
            if member.role == "gateway":
                # Nobody is there to hear it; should the gateway have lived on, it will ask.
                self._attempts.end(request.owner, failed, now)
            else:
                self._attempts.fail(failed, now)

    def forgive(self, now: float) -> None:
        """Count nobody's silence before now: it was this process that stood still."""
        for member in self._books.registry.members:
            member.seen = now

    def bury(self, now: float) -> None:
        """Lose all that have been silent for too long."""
        for member in self._books.registry.members:
            silence = now - member.seen
            if silence > self._dead_after:
                self.lose(member.name, f"no heartbeat for {silence:.1f} s", now)

    def strays(self) -> list[Owner]:
        """Attempts of gateways that are no members, as those that have never joined.

        Those that the router itself has ordered are no strays.
        """
        find = self._books.registry.find
        return [
            request.owner
            for request in self._books.requests.live
            if find(request.gateway.name, request.gateway.incarnation) is None
            and request.gateway != self._peer
        ]

    def _remove(self, member: Registered, *, departed: bool) -> None:
        self._books.registry.remove(member.name, departed=departed)
        self._books.leave(member.name)

    def _set_leaving(self, member: Registered, now: float) -> None:
        if member.leaving:
            return
        self._books.registry.retire(member)
        if not member.ordered:
            # Told to stop from outside, as before a restart.
            self._books.registry.miss(member, now)
        self._assign_brokers()

    def _assign_brokers(self) -> set[str]:
        """Give decode instances their brokers; the names of all who had to be told."""
        registry = self._books.registry
        changed = registry.assign_brokers()
        for decode in changed:
            self._books.requests.follow(decode.name, decode.broker)
        concerned = [*changed, *registry.of("prefill-worker")] if changed else []
        for member in concerned:
            self.welcome(member)
        return {member.name for member in concerned}

    def _broker_of(self, member: Registered) -> str | None:
        broker = self._books.registry.find(member.broker) if member.broker else None
        return broker.inbox if broker is not None else None

    def _brokerages(self) -> tuple[Brokerage, ...]:
        found = []
        for decode in self._books.registry.of("decode-worker"):
            broker = self._broker_of(decode)
            if broker is not None:
                found.append(Brokerage(decode.name, decode.hello.peer.incarnation, broker))
        return tuple(found[:MAX_BROKERAGES])
