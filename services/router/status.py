"""The mesh as the router sees it, for operators."""

from common.messages import (
    BrokerFacts,
    DecodeFacts,
    Facts,
    GatewayFacts,
    MemberStatus,
    PrefillFacts,
    Query,
    Status,
)
from services.router.books import Books
from services.router.registry import Registered
from services.router.scheduler import Scheduler, sizes_of


def status(books: Books, scheduler: Scheduler, epoch: int, query: Query, now: float) -> Status:
    """Members, load and policy; `now` in monotonic seconds."""
    delays = books.pool.delays(now)
    members = tuple(
        _member(member, delays.get(member.name, 0.0), books.pool.planned(member.name), now)
        for member in books.registry.members
    )
    return Status(
        query=query,
        epoch=epoch,
        waiting=books.requests.num_waiting,
        requests=len(books.requests),
        policy=policy(scheduler, now),
        members=members,
    )


def policy(scheduler: Scheduler, now: float) -> str:
    """How plans are chosen, in words."""
    schedule = scheduler.schedule
    sizes = ", ".join(map(str, sizes_of(schedule)))
    rate, load = scheduler.regulation.rate(now), scheduler.regulation.load
    observed = "not counted yet" if load is None else f"{load:.2g} requests/s"
    return (
        f"{schedule.policy}; SP candidates {sizes}; improvement rate {rate:g}; "
        f"min chunk {schedule.min_chunk} tokens; load {observed}"
    )


def _member(member: Registered, delay: float, num_planned: int, now: float) -> MemberStatus:
    total, used, active = _load(member.facts, num_planned)
    return MemberStatus(
        name=member.name,
        role=member.role,
        node=member.hello.node,
        incarnation=member.hello.peer.incarnation,
        state="leaving" if member.leaving else "serving",
        age=max(0.0, now - member.joined),
        silence=max(0.0, now - member.seen),
        delay=delay,
        total=total if member.facts is not None else member.hello.total_slots,
        used=used,
        active=active,
    )


def _load(facts: Facts | None, num_planned: int) -> tuple[int, int, int]:
    """Total, used, active."""
    match facts:
        case PrefillFacts(total_slots=total, free_slots=free):
            return total, max(0, total - free), num_planned
        case DecodeFacts(total_slots=total, free_slots=free, active=active):
            return total, max(0, total - free), active
        case BrokerFacts(backends=backends, lent=lent):
            return backends, lent, lent
        case GatewayFacts(streams=streams):
            return streams, streams, streams
        case None:
            return 0, 0, num_planned
