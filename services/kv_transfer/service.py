"""The broker between senders and decode instances: handshakes in, grants out.

It moves no bytes. One receive manager for each decode instance that a sender has named, dropped
when a newer life of that instance shows. A broker may take the place of another at any time, and
cannot tell: what it hears of for the first time may have loans that it has to take over.
"""

import asyncio
from collections.abc import Iterable
from typing import NamedTuple

from common import failpoints
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
from services.kv_transfer.receive_manager import MAX_REQUESTS, Granted, ReceiveManager

MAX_TARGETS = 256
"""Decode instances that one broker lends for."""
MAX_HELD = 4096
"""Entries of a heartbeat."""
QUIET = 2.0
"""Heartbeats for which an unknown decode instance is lent nothing new."""


class _Target(NamedTuple):
    incarnation: int
    manager: ReceiveManager


class Broker:
    """The receive managers of all decode instances, by name and life."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self._started = process.clock.now()
        self._targets: dict[Name, _Target] = {}
        # A handshake may come after the end of its request, and before its manager is there.
        self._ended: Recent[Owner] = Recent(MAX_REQUESTS)

    def facts(self) -> BrokerFacts:
        """What the heartbeat tells."""
        now = self._process.clock.now()
        managers = [target.manager for target in self._targets.values()]
        return BrokerFacts(
            backends=sum(manager.num_backends for manager in managers),
            lent=sum(manager.lent for manager in managers),
            waiting=sum(manager.waiting for manager in managers),
            held=tuple(held for manager in managers for held in manager.held(now))[:MAX_HELD],
            oldest=max((manager.oldest(now) for manager in managers), default=0.0),
        )

    def quiescent(self) -> bool:
        """Whether no request wants or keeps a backend."""
        return all(target.manager.is_idle for target in self._targets.values())

    def fence(self) -> None:
        """Forget every loan: the router has given them to another broker, or has gone."""
        self._targets.clear()

    def tick(self, silence: float) -> None:
        """Lend what had to wait for a takeover; give up the leases that nobody renews.

        Args:
            silence: seconds since the router was heard.
        """
        if silence > self._process.config.mesh.lease:
            self.fence()
        now = self._process.clock.now()
        for target in self._targets.values():
            self._send(self._renewed(target.manager).advance(now))

    def receive(self, message: ControlMessage) -> None:
        """Act on one message; whatever is not for a broker is ignored."""
        match message:
            case Handshake():
                failpoints.hit("broker.handshake")
                if Owner(message.request, message.attempt) not in self._ended:
                    self._handshake(message)
            case Release():
                failpoints.hit("broker.release")
                target = self._targets.get(message.target)
                if target is not None and target.incarnation == message.incarnation:
                    self._send(self._renewed(target.manager).release(message))
            case EndOfRequest() | Cancel():
                owner = Owner(message.request, message.attempt)
                self._ended.add(owner)
                for target in self._targets.values():
                    self._send(self._renewed(target.manager).end(owner))
            case _:
                pass

    def _handshake(self, message: Handshake) -> None:
        manager = self._manager(message.target)
        if manager is not None:
            now = self._process.clock.now()
            self._send(self._renewed(manager).handshake(message, now))

    def _renewed(self, manager: ReceiveManager) -> ReceiveManager:
        # A target may have had another broker since this one lent for it last.
        manager.renew(self._generation(self._process.clock.now()))
        return manager

    def _manager(self, target: Target) -> ReceiveManager | None:
        """The manager of a target; None for an older life of it, or one too many."""
        known = self._targets.get(target.name)
        if known is not None and known.incarnation >= target.incarnation:
            return known.manager if known.incarnation == target.incarnation else None
        if known is None and len(self._targets) >= MAX_TARGETS and not self._forget_idle():
            return None
        now, lends_from = self._process.clock.now(), float("-inf")
        if known is None:  # else nobody but this broker has lent for it
            lends_from = now + QUIET * self._process.config.mesh.heartbeat
        manager = ReceiveManager(target.num_backends, self._generation(now), lends_from)
        self._targets[target.name] = _Target(target.incarnation, manager)
        return manager

    def _generation(self, now: float) -> int:
        # Incarnations count nanoseconds, and so this is newer than all loans that anybody gave
        # before: a former life, another broker that was started later, an older life of the target.
        return self._process.peer.incarnation + int((now - self._started) * 1e9)

    def _forget_idle(self) -> bool:
        """Make room by the longest known target that wants nothing, perhaps long gone."""
        idle = (name for name, target in self._targets.items() if target.manager.is_idle)
        return self._targets.pop(next(idle, ""), None) is not None

    def _send(self, granted: Iterable[Granted]) -> None:
        for inbox, grant in granted:
            failpoints.hit("broker.grant")
            self._process.mesh.send(inbox, grant)


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
        group.create_task(_tick(process, membership, broker))


async def _receive(process: Process, membership: Membership, broker: Broker) -> None:
    while True:
        message, _ = await process.mesh.receive()
        if not membership.receive(message):
            broker.receive(message)


async def _tick(process: Process, membership: Membership, broker: Broker) -> None:
    while True:
        await process.clock.sleep(process.config.mesh.heartbeat / 4)
        broker.tick(membership.silence)
