"""The loops around a worker, whatever its engine is: messages in, steps, ticks, heartbeats out."""

import asyncio

from common.messages import PROTOCOL, Endpoint, Hello, KvLayout
from common.model_card import read_card
from common.service import Membership, Process
from services.decode_worker.worker import Engine, Worker


async def control(
    process: Process, worker: Worker, engine: Engine, layout: KvLayout, link: Endpoint
) -> None:
    """Join the mesh, take KV at `link` and decode until cancelled.

    Raises:
        ConfigError: the router refuses this worker.
    """
    hello = Hello(
        role="decode-worker",
        peer=process.peer,
        node=process.node,
        protocol=PROTOCOL,
        model=read_card(process.config.model),
        layout=layout,
        link=link,
        total_slots=worker.facts().total_slots,
        num_backends=process.config.decode.backends,
    )
    membership = Membership(process, hello, worker.facts, worker.fence)
    async with asyncio.TaskGroup() as group:
        group.create_task(membership.run())
        group.create_task(_receive(process, membership, worker))
        group.create_task(_tick(process, membership, worker))
        group.create_task(worker.decode(engine))


async def _receive(process: Process, membership: Membership, worker: Worker) -> None:
    while True:
        message, _ = await process.mesh.receive()
        if not membership.receive(message):
            worker.receive(message)
        elif membership.welcome is not None:
            worker.broker = membership.welcome.broker


async def _tick(process: Process, membership: Membership, worker: Worker) -> None:
    while True:
        await process.clock.sleep(process.config.mesh.resend / 2)
        worker.tick(membership.silence)
