"""The router as a process: one loop that hands every message to the router's books."""

from common.service import Process
from services.router.router import Router


async def serve(process: Process) -> None:
    """Route until cancelled.

    Raises:
        ConfigError: the latency model cannot be loaded.
    """
    metrics = process.metrics
    waiting = metrics.gauge("tetris_router_waiting", "Requests without a plan.")
    living = metrics.gauge("tetris_router_requests", "Requests that are not over.")
    ignored = metrics.gauge("tetris_router_ignored", "Messages that were not meant for this life.")
    router = Router(process.config, process.peer, process.mesh.send)
    while True:
        message, frames = await process.mesh.receive()
        router.handle(message, frames, process.clock.now())
        waiting.set(router.books.requests.num_waiting)
        living.set(len(router.books.requests))
        ignored.set(router.num_ignored)
