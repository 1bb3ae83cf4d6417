"""What a mesh at rest looks like: as it did before the first request."""

import asyncio

from common.messages import Heartbeat
from tests.simulation.cuts import place
from tests.simulation.host import Host
from tests.simulation.world import World


class Baseline:
    """What there is of everything when all have joined and nobody has asked for anything."""

    def __init__(self, world: World) -> None:
        self._num_tasks = _num_tasks(world)
        self._num_links = len(world.links.endpoints)

    def disturbed(self, world: World) -> list[str]:
        """What is different now (I3, I5): tasks, endpoints, what members say of themselves."""
        found = []
        if _num_tasks(world) != self._num_tasks:
            found.append(f"I5 {_num_tasks(world)} tasks, {self._num_tasks} before")
        inboxes = {host.process.mesh.inbox for host in world.hosts.values() if host.process}
        if world.network.endpoints != inboxes:
            found.append(f"I5 endpoints {sorted(world.network.endpoints ^ inboxes)}")
        if len(world.links.endpoints) != self._num_links:
            found.append(f"I5 links {sorted(world.links.endpoints)}")
        found += _at_odds(world)
        found += [f"I2 {len(host.part.calls)} calls at {host.name}" for host in _busy(world)]
        return found + _held(world)


def _busy(world: World) -> list[Host]:
    return [host for host in world.of("gateway") if host.is_up and len(host.part.calls)]


def _at_odds(world: World) -> list[str]:
    """Gateways that know another schedule than the router: what one has heard is never lost."""
    version = world.router.updates.current.version
    knows = {host.name: host.part.schedule.newest for host in world.of("gateway")}
    return [
        f"I12 {name} knows schedule {one.version if one else 0}, in force is {version}"
        for name, one in knows.items()
        if (one.version if one else 0) != version
    ]


def _num_tasks(world: World) -> int:
    """Tasks but for the writers of meshes, one for each peer."""
    meshes = [host.process.mesh for host in world.hosts.values() if host.process]
    return len(asyncio.all_tasks()) - sum(mesh.num_peers for mesh in meshes)


def _held(world: World) -> list[str]:
    """What the last heartbeat of every living process says that it holds."""
    living = {host.process.mesh.inbox for host in world.hosts.values() if host.process}
    last = {}
    for event in world.history.events:
        if event.way == "sent" and isinstance(event.message, Heartbeat) and event.where in living:
            last[event.where] = event.message.facts
    found = []
    for where, facts in last.items():
        used = getattr(facts, "total_slots", 0) - getattr(facts, "free_slots", 0)
        if used or getattr(facts, "held", ()):
            found.append(f"I3 {place(where)[1]} holds {used} slots: {facts}")
    return found
