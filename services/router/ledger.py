"""Every KV slot and backend that is not free, as the last heartbeats told."""

from collections.abc import Iterator

from common.messages import GatewayFacts, Ledger, LedgerEntry, Query
from common.pages import Owner
from services.router.books import Books

MAX_ENTRIES = 4096
"""Entries of one answer."""


def ledger(books: Books, lease: float, query: Query, now: float) -> Ledger:
    """What each attempt holds at each worker and broker; `lease` is a fresh one's seconds."""
    entries = sorted(
        _entries(books, lease, now), key=lambda one: (one.member, one.request, one.attempt)
    )
    return Ledger(query, tuple(entries[:MAX_ENTRIES]), len(entries))


def _entries(books: Books, lease: float, now: float) -> Iterator[LedgerEntry]:
    for member in books.registry.members:
        silence = max(0.0, now - member.seen)
        if member.facts is None or isinstance(member.facts, GatewayFacts):
            continue
        for held in member.facts.held:
            yield LedgerEntry(
                member=member.name,
                role=member.role,
                request=held.request,
                attempt=held.attempt,
                slots=held.slots,
                age=held.age + silence,
                lease=max(0.0, lease - silence),
                live=books.requests.get(Owner(held.request, held.attempt)) is not None,
            )
