"""What goes wrong in a simulated mesh, and when: drawn from a seed, undone at the end."""

import asyncio
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from common.clock import LoopClock
from common.memory_transport import Faults
from common.messages import Role
from tests.simulation.cuts import Plane
from tests.simulation.host import Host
from tests.simulation.world import World

ROLES: tuple[Role, ...] = ("router", "gateway", "prefill-worker", "decode-worker", "kv-transfer")
KINDS = ("noise", "crash", "freeze", "cut", "stop")


@dataclass(frozen=True)
class Fault:
    """One thing that goes wrong at a time, for some seconds; `victims` are names of processes."""

    kind: str
    time: float
    seconds: float
    victims: tuple[str, ...] = ()
    others: tuple[str, ...] = ()
    planes: tuple[Plane, ...] = ()
    both: bool = True
    noise: Faults | None = None
    link_noise: Faults | None = None


def draw(rng: random.Random, names: Sequence[str], horizon: float) -> list[Fault]:
    """Faults of a random subset of kinds against a random subset of roles, in time's order."""
    kinds = [kind for kind in KINDS if rng.random() < 0.5] or [rng.choice(KINDS)]
    victims = [name for name in names if rng.random() < 0.6] or [rng.choice(names)]
    faults = [
        _draw(rng, rng.choice(kinds), victims, names, horizon)
        for _ in range(rng.randint(2, max(3, int(horizon / rng.choice((6, 3, 1.5))))))
    ]
    if rng.random() < 0.4:
        noise, link_noise = _noise(rng), _link_noise(rng)
        faults.append(Fault("noise", 0.0, horizon, noise=noise, link_noise=link_noise))
    return sorted(faults, key=lambda fault: fault.time)


def _draw(
    rng: random.Random, kind: str, victims: Sequence[str], names: Sequence[str], horizon: float
) -> Fault:
    time = rng.uniform(0.0, horizon)
    # Shorter than a heartbeat, around the death limit, and far beyond it.
    seconds = min(rng.choice((0.05, 0.5, 1.5, 3.0, 10.0)) * rng.uniform(0.5, 2.0), horizon)
    victim = rng.choice(victims)
    if kind == "noise":
        return Fault(kind, time, seconds * 3, noise=_noise(rng), link_noise=_link_noise(rng))
    if kind != "cut":
        return Fault(kind, time, seconds, (victim,))
    rest = [name for name in names if name != victim]
    others = rest if rng.random() < 0.3 else rng.sample(rest, rng.randint(1, len(rest)))
    planes: tuple[Plane, ...] = rng.choice((("mem",), ("emulated",), ("mem", "emulated")))
    return Fault(kind, time, seconds, (victim,), tuple(others), planes, rng.random() < 0.5)


def _noise(rng: random.Random) -> Faults:
    return Faults(
        max_delay=rng.choice((0.002, 0.05, 0.5, 2.0)),
        loss=rng.choice((0.0, 0.01, 0.05, 0.3)),
        duplication=rng.choice((0.0, 0.01, 0.2)),
        reordering=rng.choice((0.0, 0.0, 0.1, 1.0)),
    )


def _link_noise(rng: random.Random) -> Faults:
    return Faults(
        min_delay=0.0,
        max_delay=rng.choice((0.0, 0.001, 0.1, 1.0)),
        loss=rng.choice((0.0, 0.01, 0.1)),
        duplication=rng.choice((0.0, 0.01, 0.2)),
    )


class Nemesis:
    """Does all of it to one world; afterwards every process runs and every way is open."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._clock = LoopClock()
        self._acts: dict[str, Callable[[Fault], object]] = {
            "noise": self._noise,
            "crash": self._crash,
            "freeze": self._freeze,
            "cut": self._cut,
            "stop": self._stop,
        }

    async def run(self, faults: Sequence[Fault]) -> None:
        """All faults at their times."""
        async with asyncio.TaskGroup() as group:
            for fault in faults:
                group.create_task(self._strike(fault))
        for host in self._world.hosts.values():
            host.thaw()
            self._start(host)
        self._world.healed = self._clock.now()

    async def _strike(self, fault: Fault) -> None:
        await self._clock.sleep(fault.time)
        undo = self._acts[fault.kind](fault)
        await self._clock.sleep(fault.seconds)
        if callable(undo):
            undo()

    def _noise(self, fault: Fault) -> Callable[[], None]:
        world = self._world
        assert fault.noise is not None and fault.link_noise is not None, "drawn with its noise"
        world.network.faults, world.link_faults = fault.noise, fault.link_noise

        def undo() -> None:
            world.network.faults = world.cluster.faults
            world.link_faults = world.cluster.link_faults

        return undo

    def _crash(self, fault: Fault) -> Callable[[], None]:
        host = self._host(fault)
        host.crash()
        return lambda: self._start(host)

    def _freeze(self, fault: Fault) -> Callable[[], None]:
        host = self._host(fault)
        host.freeze()
        return host.thaw

    def _cut(self, fault: Fault) -> Callable[[], None]:
        cuts = self._world.cuts
        ways = cuts.cut(fault.victims, fault.others, fault.planes, both=fault.both)
        return lambda: cuts.heal(ways)

    def _stop(self, fault: Fault) -> Callable[[], None]:
        """A process is told to end, has its time for it, and is started again once it has."""
        host = self._host(fault)
        life = host.num_lives
        host.stop()

        def undo() -> None:
            if host.num_lives == life:
                host.crash()
                self._start(host)

        return undo

    def _host(self, fault: Fault) -> Host:
        return self._world.hosts[fault.victims[0]]

    def _start(self, host: Host) -> None:
        if not host.is_up:
            self._world.start(host)
