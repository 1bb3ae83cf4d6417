"""Books against facts: what each heartbeat says, and what is done where they disagree.

Truth about clients is with the gateways, about KV with its holders. The rules are the table of
`docs/architecture.md`, "When things break".
"""

from collections.abc import Iterable

from common.messages import (
    BrokerFacts,
    DecodeFacts,
    Failed,
    GatewayFacts,
    Held,
    PrefillFacts,
)
from common.pages import Owner
from services.router.attempts import Attempts
from services.router.books import Books
from services.router.registry import Registered
from services.router.sightings import Scope

MAX_HELD = 4096
"""A list of that length may lack something, so absence from it proves nothing."""


class Levelling:
    """Levels the books of one epoch."""

    def __init__(self, epoch: int, books: Books, attempts: Attempts) -> None:
        self._epoch = epoch
        self._books = books
        self._attempts = attempts

    def read(self, member: Registered, now: float) -> bool:
        """Level the books against a member's last facts; False when they are not of its role."""
        match member.role, member.facts:
            case "prefill-worker", PrefillFacts() as facts:
                self._prefill(member, facts, now)
            case "decode-worker", DecodeFacts() as facts:
                self._decode(member, facts, now)
            case "kv-transfer", BrokerFacts() as facts:
                self._handed_over(member, facts.held)
                self._orphans(member, facts.held, now)
            case "gateway", GatewayFacts() as facts:
                self._clients(member, facts, now)
            case _:
                return False
        return True

    def _prefill(self, member: Registered, facts: PrefillFacts, now: float) -> None:
        books, name = self._books, member.name
        # Turns of another epoch count other chunks.
        is_current = facts.epoch == self._epoch
        if is_current:
            books.dispatch.acknowledge(name, facts.received_through)
            books.pool.finished(name, facts.finished_through)
            if facts.running is not None:
                begun = books.pool.running(name, facts.running.seq, now)
                if begun is not None:
                    books.recorder.began(begun, now)
        held = {Owner(one.request, one.attempt): one.slots for one in facts.held}
        finished = facts.finished_through if is_current else 0
        for owner in books.memory.reconcile(name, held, finished):
            books.recorder.handed_over(owner, name, now)
        for parcel in books.dispatch.late(name, now):
            self._attempts.deliver(name, parcel)
        self._orphans(member, facts.held, now)

    def _decode(self, member: Registered, facts: DecodeFacts, now: float) -> None:
        books, name = self._books, member.name
        books.placement.refresh(name, facts)
        for one in facts.held:
            request = books.requests.get(Owner(one.request, one.attempt))
            # The same news as `Admitted`, which may have got lost.
            if one.admitted and request is not None and request.decode == name:
                books.admit(request, one.slots, now)
        self._orphans(member, facts.held, now)
        if facts.active <= len(facts.held) < MAX_HELD:
            self._vanished(member, facts.held, now)

    def _vanished(self, member: Registered, held: Iterable[Held], now: float) -> None:
        """Fail what only decode can hold, prefill having done its part, and does not."""
        books = self._books
        there = {Owner(one.request, one.attempt) for one in held}
        busy = {task.owner for task in books.pool.tasks} | books.memory.owners
        gone = [
            request.owner
            for request in books.requests.live
            if request.decode == member.name
            and request.owner not in there
            and (request.admitted or request.owner not in busy)
        ]
        for owner in self._books.sightings.due(Scope(member.name, "vanished"), gone, now):
            why = f"{member.name} no longer holds it"
            self._attempts.fail(Failed(*owner, "decode", why, retryable=True), now)

    def _handed_over(self, broker: Registered, held: Iterable[Held]) -> None:
        """Have a broker let go of what decode has admitted, whose last release got lost."""
        for one in held:
            request = self._books.requests.get(Owner(one.request, one.attempt))
            if request is not None and request.admitted:
                self._attempts.tell_end(request.owner, broker.inbox)

    def _orphans(self, member: Registered, held: Iterable[Held], now: float) -> None:
        """Have a member let go of what is over, and of what nobody knows."""
        requests = self._books.requests
        unknown = []
        for one in held:
            owner = Owner(one.request, one.attempt)
            if requests.get(owner) is not None:
                continue
            if requests.over(owner) is not None:
                self._attempts.tell_end(owner, member.inbox)
            else:
                unknown.append(owner)
        for owner in self._books.sightings.due(Scope(member.name, "orphan"), unknown, now):
            failed = Failed(*owner, "router", "no gateway has asked for it", retryable=True)
            self._attempts.end(owner, failed, now)
            self._attempts.tell_end(owner, member.inbox)

    def _clients(self, gateway: Registered, facts: GatewayFacts, now: float) -> None:
        requests, peer = self._books.requests, gateway.hello.peer
        unknown = self._unknown(gateway, facts, now)
        for owner in self._books.sightings.due(Scope(gateway.name, "unknown"), unknown, now):
            failed = Failed(*owner, "router", "no worker carries it on", retryable=True)
            self._attempts.end(owner, failed, now)
            self._attempts.repeat(failed, gateway.inbox)
        if len(facts.open) >= MAX_HELD:
            return
        open_ = {Owner(one.request, one.attempt) for one in facts.open}
        left = [
            request.owner
            for request in requests.live
            if request.gateway == peer and request.owner not in open_
        ]
        for owner in self._books.sightings.due(Scope(gateway.name, "left"), left, now):
            failed = Failed(*owner, "router", "its gateway no longer had it", retryable=True)
            self._attempts.end(owner, failed, now)

    def _unknown(self, gateway: Registered, facts: GatewayFacts, now: float) -> list[Owner]:
        """What a gateway waits for and nobody knows; what is over, is told, or runs, adopted."""
        requests = self._books.requests
        unknown = []
        for one in facts.open:
            owner = Owner(one.request, one.attempt)
            if requests.get(owner) is not None:
                continue
            how = requests.over(owner)
            if how is not None:
                self._attempts.repeat(how, gateway.inbox)
                continue
            if self._attempts.adopted(owner, gateway.hello.peer, now) is None:
                unknown.append(owner)
        return unknown
