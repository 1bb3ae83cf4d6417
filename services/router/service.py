"""The router as a process: a loop that hands every message to its books, and one that ticks."""

import asyncio
from functools import partial

from msgspec import json
from structlog.typing import FilteringBoundLogger

from common.cache import cache_directory
from common.messages import InForce
from common.service import Process
from services.router.herald import PERIOD
from services.router.latency_store import LatencyStore
from services.router.requests import Request
from services.router.router import Router


async def serve(process: Process) -> None:
    """Route until cancelled.

    Raises:
        ConfigError: the latency model cannot be loaded.
    """
    planned, updated = partial(_log_plan, process.log), partial(_log_schedule, process.log)
    store = LatencyStore(cache_directory("latency"), process.log)
    router = Router(process.config, process.peer, process.mesh.send, planned, updated, store)
    await route(process, router)


async def route(process: Process, router: Router) -> None:
    """Serve with this router."""
    _set_wall(process, router)
    async with asyncio.TaskGroup() as group:
        group.create_task(_receive(process, router))
        group.create_task(_tick(process, router))
        group.create_task(_tell(process, router))


async def _receive(process: Process, router: Router) -> None:
    metrics = process.metrics
    waiting = metrics.gauge("tetris_router_waiting", "Requests without a plan.")
    living = metrics.gauge("tetris_router_requests", "Requests that are not over.")
    ignored = metrics.gauge("tetris_router_ignored", "Messages that were not meant for this life.")
    while True:
        message, frames = await process.mesh.receive()
        router.handle(message, frames, process.clock.now())
        waiting.set(router.books.requests.num_waiting)
        living.set(len(router.books.requests))
        ignored.set(router.num_ignored)


async def _tick(process: Process, router: Router) -> None:
    drift = process.metrics.gauge(
        "tetris_latency_drift", "Measured over predicted seconds of the last chunks.", ["sp"]
    )
    while True:
        router.tick(process.clock.now())
        for size, ratio in router.tuning.learning.drift().items():
            drift.labels(str(size)).set(ratio)
        await process.clock.sleep(process.config.mesh.heartbeat / 2)


async def _tell(process: Process, router: Router) -> None:
    clock = process.clock
    while True:
        _set_wall(process, router)
        router.tell(clock.now())
        await clock.sleep(PERIOD)


def _set_wall(process: Process, router: Router) -> None:
    """What the wall clock says now; it may be set while the router serves."""
    router.books.wall.offset = process.clock.wall() - process.clock.now()


def _log_plan(log: FilteringBoundLogger, request: Request) -> None:
    """One line for each plan: what runs where, and the TTFT that is expected of it."""
    plan = request.plan
    assert plan is not None, "logged after planning"
    log.info(
        "planned",
        request=request.owner.request,
        attempt=request.owner.attempt,
        chunks=" → ".join(f"{chunk.size}:{chunk.length}" for chunk in plan.chunks),
        members=" ".join(plan.members),
        decode=request.decode,
        ttft=round(plan.ttft, 3),
    )


def _log_schedule(log: FilteringBoundLogger, current: InForce) -> None:
    """One line for each schedule that takes the place of another."""
    schedule = current.schedule
    text = json.encode(schedule).decode()
    log.info("scheduled", version=current.version, policy=schedule.policy, schedule=text)
