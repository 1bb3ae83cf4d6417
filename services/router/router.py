"""What the router does with every message, and as time passes.

Synchronous and without sockets: `send` is an argument, and so is time. Heartbeats level the
books, so a lost message costs a heartbeat.
"""

from collections.abc import Callable, Sequence

from msgspec import structs

from common.config import Config
from common.messages import (
    Admitted,
    Ask,
    Cancel,
    ChunkDone,
    ClusterState,
    ControlMessage,
    DecodeStats,
    Drain,
    EndOfRequest,
    Explained,
    Failed,
    FirstToken,
    GatewayFacts,
    Heartbeat,
    Hello,
    InForce,
    Leave,
    Peer,
    Ready,
    Released,
    Submit,
    Update,
)
from common.pages import Owner
from services.router.attempts import Attempts
from services.router.books import Books
from services.router.decision_answer import decision_answer
from services.router.entrance import Entrance
from services.router.herald import Herald
from services.router.latency_store import LatencyStore
from services.router.ledger import ledger
from services.router.levelling import Levelling
from services.router.membership import Membership
from services.router.orders import Orders
from services.router.patience import Patience
from services.router.planning import Planning, Send
from services.router.reports import Reports
from services.router.requests import Request
from services.router.sightings import Scope
from services.router.status import status
from services.router.tuning import Tuning
from services.router.updates import Updates


class Router:
    """One life of the router; its incarnation is the epoch.

    Args:
        planned: told of every request that has got its plan.
        updated: told of every schedule that is put in force.
        store: where measured latency models are kept.
    """

    def __init__(
        self,
        config: Config,
        peer: Peer,
        send: Send,
        planned: Callable[[Request], None] = lambda request: None,
        updated: Callable[[InForce], None] = lambda schedule: None,
        store: LatencyStore | None = None,
    ) -> None:
        books = Books(peer.incarnation, config)
        self.books = books
        self.num_ignored = 0
        """Messages that nobody here was meant to get, or from members of another life."""
        self._planning = Planning(config, books, peer, send)
        self.entrance = Entrance(config.router, books, self._planning)
        self._attempts = Attempts(books, self._planning, self.entrance, send)
        self._members = Membership(config.mesh, peer, books, self._attempts, send)
        self._levelling = Levelling(peer.incarnation, books, self._attempts)
        self._patience = Patience(config.router, books, self._planning, self._attempts)
        self.updates = Updates(peer.incarnation, books, self._planning, updated)
        self._orders = Orders(peer, books, self._planning, self._attempts)
        self.tuning = Tuning(
            config.router,
            books,
            self._planning.scheduler,
            self._orders,
            store or LatencyStore(None),
        )
        self._reports = Reports(books, self.tuning)
        self._herald = Herald(books, self._planning.scheduler, self.tuning.learning.drift, send)
        self._config = config
        self._epoch = peer.incarnation
        self._send = send
        self._planned = planned
        self._ticked: float | None = None

    def handle(
        self, message: ControlMessage, frames: Sequence[bytes | memoryview], now: float
    ) -> None:
        """Take one message in, then start whatever has room."""
        match message:
            case Hello() | Heartbeat() | Leave():
                is_known = self._membership(message, now)
            case Drain() | Ask() | Update():
                is_known = self._operator(message, now)
            case Submit():
                is_known = self._submit(message, bytes(frames[0]), now)
            case Cancel():
                owner = Owner(message.request, message.attempt)
                is_known = self._attempts.end(owner, message, now) is not None
            case EndOfRequest() | Failed():
                is_known = self._attempts.reported(message, now)
            case Ready() | ChunkDone() | Released() | Admitted() | DecodeStats():
                is_known = self._reports.take(message, now)
            case FirstToken(token=token):
                is_known = self._orders.is_own(token.request)
            case _:
                is_known = False
        self.num_ignored += not is_known
        self._start(now)

    def tick(self, now: float) -> None:
        """See what time alone has changed; called every half heartbeat."""
        before = self._ticked if self._ticked is not None else now
        self._ticked = now
        if now - before > 2 * self._config.mesh.heartbeat:
            # This process stood still, and everything that was said waits in its inbox.
            self._members.forgive(now)
            self.books.sightings.restart()
            self._patience.restart()
        self._members.bury(now)
        for owner in self.books.sightings.due(Scope("", "stray"), self._members.strays(), now):
            failed = Failed(*owner, "router", "its gateway has not joined", retryable=True)
            self._attempts.end(owner, failed, now)
        self._patience.tick(now)
        self.updates.tick(now)
        self.tuning.tick(now)
        self._start(now)

    def tell(self, now: float) -> None:
        """Tell the gateways what has happened; called every `herald.PERIOD`."""
        self._herald.tell(now)

    def lose(self, name: str, why: str, now: float) -> None:
        """Take a member out: its requests become new attempts, its books are closed."""
        self._members.lose(name, why, now)

    def _start(self, now: float) -> None:
        for request in self._planning.start_waiting(now):
            self._send(request.gateway.inbox, request.accepted(now))
            self._planned(request)

    def _membership(self, message: Hello | Heartbeat | Leave, now: float) -> bool:
        match message:
            case Hello():
                self._members.hello(message, now)
            case Heartbeat():
                return self._heartbeat(message, now)
            case Leave():
                return self._members.leave(message, now)
        return True

    def _operator(self, message: Drain | Ask | Update, now: float) -> bool:
        match message:
            case Drain():
                self._members.drain(message, now)
            case Update():
                self._send(message.reply, self.updates.update(message, now))
            case Ask(query=query, what="schedule"):
                self._send(message.reply, self.updates.describe(query, now))
            case Ask(query=query, what="status"):
                answer = status(self.books, self._planning.scheduler, self._epoch, query, now)
                answer = structs.replace(answer, latency=self.tuning.text())
                self._send(message.reply, answer)
            case Ask(query=query, what="plan"):
                decision = self.books.decisions.find(message.request or "")
                text = b"" if decision is None else decision_answer(decision, self.books.wall)
                self._send(message.reply, Explained(query, text))
            case Ask(query=query):
                self._send(message.reply, ledger(self.books, self._config.mesh.lease, query, now))
        return True

    def _heartbeat(self, heartbeat: Heartbeat, now: float) -> bool:
        member = self._members.heartbeat(heartbeat, now)
        if member is None or not self._levelling.read(member, now):
            return False
        if isinstance(member.facts, GatewayFacts):
            self.updates.hear(member.facts.newer)
            self._send(member.inbox, self._state(member.facts.schedule))
        self._members.part(member)
        return True

    def _submit(self, submit: Submit, ids: bytes, now: float) -> bool:
        owner = Owner(submit.request, submit.attempt)
        is_new = self.books.requests.get(owner) is None
        if not self._attempts.submit(submit, ids, now):
            return False
        request = self.books.requests.get(owner)
        if request is not None and request.plan is None and not request.admitted:
            self.tuning.make_way(now)
            self._start(now)
            if request.plan is None:
                accepted = request.accepted(now)
                self._send(submit.reply.inbox, accepted)
                if is_new:
                    ttft = accepted.predicted_ttft
                    self.books.recorder.waits(owner, request.length, ttft, now)
        return True

    def _state(self, version: int) -> ClusterState:
        """For a gateway that knows that version of the schedule."""
        registry = self.books.registry
        return ClusterState(
            epoch=self._epoch,
            num_prefill=len(registry.serving("prefill-worker")),
            num_decode=len(registry.serving("decode-worker")),
            num_brokers=len(registry.serving("kv-transfer")),
            waiting=self.books.requests.num_waiting,
            requests=len(self.books.requests),
            schedule=self.updates.newest,
            newer=self.updates.newer(version),
            **registry.usage(),
        )
