"""The broker between senders and decode instances: handshakes in, grants out.

It moves no bytes. One receive manager for each decode instance that a sender has named, dropped
when a newer life of that instance shows.
"""

import asyncio
from collections.abc import Iterable

from common.messages import (
    PROTOCOL,
    BrokerFacts,
    Cancel,
    ControlMessage,
    EndOfRequest,
    Handshake,
    Hello,
    Name,
    Release,
    Target,
)
from common.model_card import read_card
from common.pages import Owner
from common.recent import Recent
from common.service import Membership, Process
from services.kv_transfer.receive_manager import MAX_REQUESTS, Loan, ReceiveManager

MAX_TARGETS = 256
"""Decode instances that one broker lends for."""


class Broker:
    """The receive managers of all decode instances, by name and life."""

    def __init__(self, process: Process) -> None:
        self._mesh = process.mesh
        self._managers: dict[Name, tuple[int, ReceiveManager]] = {}
        # A handshake may come after the end of its request, and before its manager is there.
        self._ended: Recent[Owner] = Recent(MAX_REQUESTS)
        # Incarnations pass faster than loans, so a restarted broker's are newer.
        self._generation = process.peer.incarnation

    def facts(self) -> BrokerFacts:
        """What the heartbeat tells."""
        managers = [manager for _, manager in self._managers.values()]
        return BrokerFacts(
            backends=sum(manager.num_backends for manager in managers),
            lent=sum(manager.lent for manager in managers),
            waiting=sum(manager.waiting for manager in managers),
        )

    def quiescent(self) -> bool:
        """Whether no request wants or keeps a backend."""
        managers = [manager for _, manager in self._managers.values()]
        return not any(manager.reserved or manager.waiting for manager in managers)

    def fence(self) -> None:
        """Forget every loan: the router has given them to another broker."""
        self._managers.clear()

    def receive(self, message: ControlMessage) -> None:
        """Act on one message; whatever is not for a broker is ignored."""
        match message:
            case Handshake():
                if Owner(message.request, message.attempt) not in self._ended:
                    manager = self._manager(message.target)
                    self._send(manager.handshake(message) if manager else ())
            case Release():
                incarnation, manager = self._managers.get(message.target, (0, None))
                if manager is not None and incarnation == message.incarnation:
                    self._send(manager.release(message))
            case EndOfRequest() | Cancel():
                owner = Owner(message.request, message.attempt)
                self._ended.add(owner)
                for _, manager in self._managers.values():
                    self._send(manager.end(owner))
            case _:
                pass

    def _manager(self, target: Target) -> ReceiveManager | None:
        """The manager of a target; None for an older life of it, or one too many."""
        known = self._managers.get(target.name)
        if known is not None and known[0] >= target.incarnation:
            return known[1] if known[0] == target.incarnation else None
        if known is None and len(self._managers) >= MAX_TARGETS:
            return None
        manager = ReceiveManager(target.num_backends, self._generation)
        self._managers[target.name] = (target.incarnation, manager)
        return manager

    def _send(self, loans: Iterable[Loan]) -> None:
        for loan in loans:
            self._mesh.send(loan.inbox, loan.grant)


async def serve(process: Process) -> None:
    """Join the mesh and lend backends until cancelled."""
    await lend(process, Broker(process))


async def lend(process: Process, broker: Broker) -> None:
    """Serve with this broker."""
    card = read_card(process.config.model)
    hello = Hello("kv-transfer", process.peer, process.node, PROTOCOL, card)
    membership = Membership(process, hello, broker.facts, broker.fence)
    async with asyncio.TaskGroup() as group:
        group.create_task(membership.run())
        group.create_task(_receive(process, membership, broker))


async def _receive(process: Process, membership: Membership, broker: Broker) -> None:
    while True:
        message, _ = await process.mesh.receive()
        if not membership.receive(message):
            broker.receive(message)
