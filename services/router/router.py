"""What the router does with every message: keeps the books, plans, and tells everyone.

Synchronous and without sockets: `send` is an argument, and so is time. Heartbeats level the
books, so a lost message costs a heartbeat.
"""

from collections.abc import Callable, Sequence

from common.config import Config
from common.errors import RequestFailed
from common.messages import (
    UNKNOWN_MEMBER,
    Admitted,
    BrokerFacts,
    Cancel,
    ChunkDone,
    ClusterState,
    ControlMessage,
    DecodeFacts,
    DecodeStats,
    EndOfRequest,
    Failed,
    GatewayFacts,
    Heartbeat,
    Hello,
    Peer,
    PrefillFacts,
    Ready,
    Refused,
    Rejected,
    Released,
    Submit,
    Welcome,
)
from common.pages import Owner
from services.router.books import Books
from services.router.dispatch import Parcel
from services.router.planning import Planning, Send
from services.router.registry import Registered
from services.router.requests import Request

RETRY_AFTER = 2.0
"""Seconds that a client is asked to wait when the queue is full."""


class Router:
    """One life of the router; its incarnation is the epoch.

    Args:
        planned: told of every request that has got its plan.
    """

    def __init__(
        self,
        config: Config,
        peer: Peer,
        send: Send,
        planned: Callable[[Request], None] = lambda request: None,
    ) -> None:
        self.books = Books(peer.incarnation, config.router.max_queue, config.mesh.resend)
        self.num_ignored = 0
        """Messages that nobody here was meant to get, or from members of another life."""
        self._planning = Planning(config.router, self.books, peer, send)
        self._epoch = peer.incarnation
        self._send = send
        self._planned = planned

    def handle(
        self, message: ControlMessage, frames: Sequence[bytes | memoryview], now: float
    ) -> None:
        """Take one message in, then start whatever has room."""
        match message:
            case Hello():
                self._hello(message, now)
            case Heartbeat():
                self._heartbeat(message, now)
            case Submit():
                self._submit(message, bytes(frames[0]), now)
            case Cancel() | EndOfRequest():
                self._end(Owner(message.request, message.attempt), message, now)
            case Failed():
                self._failed(message, now)
            case Ready() | ChunkDone() | Released() | Admitted() | DecodeStats():
                self._report(message, now)
            case _:
                self.num_ignored += 1
        self._start(now)

    def _start(self, now: float) -> None:
        for request in self._planning.start_waiting(now):
            self._send(request.submit.reply.inbox, request.accepted())
            self._planned(request)

    # Membership

    def _hello(self, hello: Hello, now: float) -> None:
        registry, peer = self.books.registry, hello.peer
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
            self.books.join(member)
        assigned = registry.assign_brokers()
        self._welcome(member)
        for decode in assigned:
            if decode is not member:
                self._welcome(decode)

    def _welcome(self, member: Registered) -> None:
        broker = self.books.registry.find(member.broker) if member.broker else None
        inbox = broker.inbox if broker is not None else None
        self._send(member.inbox, Welcome(self._epoch, member.hello.peer.incarnation, inbox))

    def lose(self, name: str, why: str, now: float) -> None:
        """Take a member out: its requests become new attempts, its books are closed."""
        for request in self.books.requests.involving(name):
            owner = request.owner
            failed = Failed(owner.request, owner.attempt, f"{name} is lost", why, True)
            self._failed(failed, now)
        self.books.registry.remove(name)
        self.books.leave(name)

    # Requests

    def _submit(self, submit: Submit, ids: bytes, now: float) -> None:
        requests = self.books.requests
        owner = Owner(submit.request, submit.attempt)
        if requests.is_over(owner):
            self.num_ignored += 1
            return
        known = requests.get(owner)
        if known is not None:
            self._send(submit.reply.inbox, known.accepted())
            return
        request = Request(submit, ids, parties=frozenset({submit.reply.name}))
        rejected = self._rejection(request)
        if rejected is not None:
            self._send(submit.reply.inbox, rejected)
            return
        self._supersede(submit, now)
        requests.add(request)
        self._start(now)
        if request.plan is None:
            self._send(submit.reply.inbox, request.accepted())

    def _rejection(self, request: Request) -> Rejected | None:
        """Why a new attempt is not taken in; None when it is."""
        submit, requests = request.submit, self.books.requests
        try:
            self._check(request)
        except RequestFailed as error:
            return Rejected(submit.request, submit.attempt, 400, str(error)[:2048])
        if requests.full(retry=submit.attempt > 1):
            reason = f"{requests.num_waiting} requests are waiting; raise router.max_queue"
            return Rejected(submit.request, submit.attempt, 503, reason, RETRY_AFTER)
        return None

    def _check(self, request: Request) -> None:
        submit = request.submit
        if len(request.ids) != 4 * submit.num_tokens:
            raise RequestFailed(f"{len(request.ids)} bytes are not {submit.num_tokens} token ids")
        limit = self.books.registry.max_model_len
        if limit is not None and submit.num_tokens > limit:
            raise RequestFailed(f"{submit.num_tokens} tokens exceed max_model_len {limit}")
        self._planning.check(request)

    def _supersede(self, submit: Submit, now: float) -> None:
        """A new attempt ends the one before it."""
        before = self.books.requests.find(submit.request)
        if before is not None:
            owner = before.owner
            self._end(owner, Cancel(owner.request, owner.attempt), now)

    def _end(self, owner: Owner, message: Cancel | EndOfRequest, now: float) -> None:
        """Close an attempt's books and tell all that hold anything of it.

        Its prefill slots stay booked until their holders release them.
        """
        request = self.books.requests.end(owner)
        if request is None:
            self.num_ignored += 1
            return
        if request.plan is None or request.decode is None or request.broker is None:
            return
        for name in (*request.plan.members, request.decode, request.broker):
            member = self.books.registry.find(name)
            if member is not None:
                self._send(member.inbox, message)
        self.books.placement.drop(owner, request.decode)
        for name, turn in self.books.pool.forget(owner):
            parcel = self.books.dispatch.void(name, turn, now)
            if parcel is not None:
                self._repeat(name, parcel)

    def _failed(self, failed: Failed, now: float) -> None:
        """The gateway hears of it and decides about a new attempt; this one is over."""
        owner = Owner(failed.request, failed.attempt)
        request = self.books.requests.get(owner)
        if request is None:
            self.num_ignored += 1
            return
        self._send(request.submit.reply.inbox, failed)
        self._end(owner, EndOfRequest(owner.request, owner.attempt, 0, "error"), now)

    # Facts

    def _heartbeat(self, heartbeat: Heartbeat, now: float) -> None:
        member = self.books.registry.beat(heartbeat, now)
        if member is None:
            self.num_ignored += 1
            if heartbeat.inbox is not None:
                refused = Refused(heartbeat.incarnation, UNKNOWN_MEMBER)
                self._send(heartbeat.inbox, refused)
            return
        match heartbeat.role, heartbeat.facts:
            case "prefill-worker", PrefillFacts() as facts:
                self._prefill_facts(member.name, facts, now)
            case "decode-worker", DecodeFacts() as facts:
                self._decode_facts(member.name, facts, now)
            case "gateway", GatewayFacts():
                self._send(member.inbox, self._state())
            case "kv-transfer", BrokerFacts():
                pass
            case _:
                self.num_ignored += 1

    def _prefill_facts(self, name: str, facts: PrefillFacts, now: float) -> None:
        books = self.books
        # More turns than were ever issued: the member still counts in an older epoch.
        if facts.received_through <= books.pool.issued(name):
            books.dispatch.acknowledge(name, facts.received_through)
            books.pool.finished(name, facts.finished_through)
            if facts.running is not None:
                books.pool.running(name, facts.running.seq, now)
            held = {Owner(one.request, one.attempt) for one in facts.held}
            books.memory.reconcile(name, held, facts.finished_through)
        for parcel in books.dispatch.late(name, now):
            self._repeat(name, parcel)

    def _decode_facts(self, name: str, facts: DecodeFacts, now: float) -> None:
        """Take the statistics over; an admitted request that is gone has ended."""
        self.books.placement.refresh(name, facts)
        if len(facts.held) < facts.active:
            return
        held = {Owner(one.request, one.attempt) for one in facts.held}
        for request in self.books.requests.involving(name):
            if request.admitted and request.owner not in held:
                owner = request.owner
                self._end(owner, EndOfRequest(owner.request, owner.attempt, 0, "abort"), now)

    def _report(
        self, report: Ready | ChunkDone | Released | Admitted | DecodeStats, now: float
    ) -> None:
        books = self.books
        member = books.registry.find(report.name, report.incarnation)
        if member is None:
            self.num_ignored += 1
            return
        match member.hello.role, report:
            case "prefill-worker", Ready(seq=seq, turn=turn):
                books.pool.ready(member.name, seq, turn, now)
            case "prefill-worker", ChunkDone(seq=seq, turn=turn):
                if books.pool.is_turn(member.name, seq, turn):
                    books.pool.finished(member.name, turn)
            case "prefill-worker", Released(request=request, attempt=attempt):
                books.memory.release(Owner(request, attempt), member.name)
            case "decode-worker", Admitted():
                self._admitted(member.name, report)
            case "decode-worker", DecodeStats(facts=facts):
                books.placement.refresh(member.name, facts)
            case _:
                self.num_ignored += 1

    def _admitted(self, name: str, admitted: Admitted) -> None:
        request = self.books.requests.get(Owner(admitted.request, admitted.attempt))
        if request is None or request.decode != name:
            self.num_ignored += 1
            return
        request.admitted = True
        self.books.placement.admit(request.owner, name, admitted.slots)

    def _state(self) -> ClusterState:
        registry = self.books.registry
        return ClusterState(
            epoch=self._epoch,
            num_prefill=len(registry.of("prefill-worker")),
            num_decode=len(registry.of("decode-worker")),
            num_brokers=len(registry.of("kv-transfer")),
            waiting=self.books.requests.num_waiting,
            requests=len(self.books.requests),
            **registry.usage(),
        )

    def _repeat(self, name: str, parcel: Parcel) -> None:
        member = self.books.registry.find(name)
        if member is None:
            return
        frames = () if parcel.ids is None else (parcel.ids,)
        self._send(member.inbox, parcel.message, *frames)
