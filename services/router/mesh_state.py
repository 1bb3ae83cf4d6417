"""The mesh as a picture of it needs it, once per second."""

from collections.abc import Iterator, Mapping

from common.events import BrokerState, DecodeState, Drift, MeshState, PrefillState
from common.messages import BrokerFacts, DecodeFacts, PrefillFacts
from services.router.books import Books
from services.router.scheduler import Scheduler

MAX_WORKERS = 1024
"""Of one role; and a quarter as many brokers."""


def mesh_state(
    books: Books, scheduler: Scheduler, drift: Mapping[int, float], now: float
) -> MeshState:
    """All instances and brokers as they last told, and how plans are made.

    Args:
        books: of the router; what instances have computed is counted anew from here on.
        scheduler: whose schedule is in force.
        drift: measured over predicted seconds by SP size.
        now: monotonic seconds.
    """
    return MeshState(
        at=books.wall.at(now),
        policy=scheduler.schedule.policy,
        rate=scheduler.regulation.rate(now),
        load=scheduler.regulation.load,
        waiting=books.requests.num_waiting,
        requests=len(books.requests),
        prefill=tuple(_prefill(books, now))[:MAX_WORKERS],
        decode=tuple(_decode(books))[:MAX_WORKERS],
        brokers=tuple(_brokers(books, now))[: MAX_WORKERS // 4],
        drift=tuple(Drift(size, min(ratio, 1e9)) for size, ratio in drift.items())[:64],
    )


def _prefill(books: Books, now: float) -> Iterator[PrefillState]:
    delays = books.pool.delays(now)
    shares = books.busy.shares(books.pool.computing(), now)
    for member in books.registry.of("prefill-worker"):
        total, used = member.hello.total_slots, 0
        if isinstance(member.facts, PrefillFacts):
            total = member.facts.total_slots
            used = max(0, total - member.facts.free_slots)
        yield PrefillState(
            name=member.name,
            node=member.hello.node,
            delay=delays.get(member.name, 0.0),
            used=used,
            total=total,
            busy=shares.get(member.name, 0.0),
        )


def _decode(books: Books) -> Iterator[DecodeState]:
    for member in books.registry.of("decode-worker"):
        total, used, active = member.hello.total_slots, 0, 0
        if isinstance(member.facts, DecodeFacts):
            total, active = member.facts.total_slots, member.facts.active
            used = max(0, total - member.facts.free_slots)
        yield DecodeState(member.name, member.hello.node, active, used, total)


def _brokers(books: Books, now: float) -> Iterator[BrokerState]:
    for member in books.registry.of("kv-transfer"):
        facts = member.facts if isinstance(member.facts, BrokerFacts) else BrokerFacts(0, 0, 0)
        oldest = facts.oldest + max(0.0, now - member.seen) if facts.waiting else 0.0
        yield BrokerState(member.name, facts.backends, facts.lent, facts.waiting, oldest)
