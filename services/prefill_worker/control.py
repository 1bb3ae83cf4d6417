"""The loops around an instance, whatever its hands are: messages in, ticks, heartbeats out."""

import asyncio

from common.messages import PROTOCOL, Endpoint, Hello, KvLayout
from common.model_card import read_card
from common.service import Membership, Process
from services.prefill_worker.instance import Instance


async def control(
    process: Process,
    instance: Instance,
    layout: KvLayout,
    ring: Endpoint,
    balance: Endpoint,
    device: str = "",
) -> None:
    """Join the mesh and let the instance act until cancelled.

    `ring` and `balance` are where the other members' blocks and history are taken; `device` is
    what the instance computes on.
    """
    hello = Hello(
        role="prefill-worker",
        peer=process.peer,
        node=process.node,
        protocol=PROTOCOL,
        model=read_card(process.config.model),
        layout=layout,
        ring=ring,
        balance=balance,
        total_slots=instance.facts().total_slots,
        device=device,
    )
    membership = Membership(process, hello, instance.facts, instance.fence)
    async with asyncio.TaskGroup() as group:
        group.create_task(membership.run())
        group.create_task(_receive(process, membership, instance))
        group.create_task(_tick(process, membership, instance))


async def _receive(process: Process, membership: Membership, instance: Instance) -> None:
    while True:
        message, frames = await process.mesh.receive()
        if not membership.receive(message):
            instance.receive(message, frames)
        elif message is membership.welcome:
            instance.welcome(membership.welcome)


async def _tick(process: Process, membership: Membership, instance: Instance) -> None:
    while True:
        await process.clock.sleep(process.config.mesh.resend / 2)
        if membership.silence > process.config.mesh.lease:
            instance.expire(membership.silence)
        instance.advance()
