"""Operators of a simulated mesh who change its schedule, and what must hold of what they see."""

import random
from collections.abc import Iterator
from dataclasses import dataclass

from common.messages import ClusterState, GatewayFacts, Heartbeat, InForce, Scheduled, Update
from common.schedule import Schedule, ScheduleChange, change_of
from tests.simulation.cluster import Cluster
from tests.simulation.history import Event

# Every policy can serve every request of the simulation on one instance: nothing is refused.
CHANGES: tuple[dict[str, object], ...] = (
    {"policy": "cdsp"},
    {"policy": "cdsp-priced", "priced": {"late_binding": True, "replan": False}},
    {"policy": "cdsp-priced", "priced": {"late_binding": False}},
    {"policy": "single-chunk", "min_chunk": 16},
    {"policy": "loongserve"},
    {"policy": "fixed-sp:1"},
    {"sp_size_candidates": [1], "improvement_rate": 0.5},
    {"sp_size_candidates": [1, 2, 4]},
    {"improvement_rate_mapping": {"0.5": 0.7, "2": 0.0}, "improvement_rate_update_period": 1.0},
    {"improvement_rate_mapping": {}},
    {"policy": "fixed-sp:3", "min_chunk": 1},
)
"""The last one does not fit the latency model."""


@dataclass(frozen=True)
class Order:
    """An operator's wish: when, through which gateway, what."""

    time: float
    gateway: str
    change: ScheduleChange


def draw(rng: random.Random, cluster: Cluster, horizon: float) -> list[Order]:
    """What operators of this cluster want; in a third of all runs nothing."""
    count = rng.choice((0, rng.randint(1, 4), rng.randint(5, 20)))
    orders = []
    for _ in range(count):
        gateway = f"gateway-{rng.randrange(cluster.num_gateways)}"
        orders.append(Order(rng.uniform(0.0, horizon), gateway, change_of(rng.choice(CHANGES))))
    return orders


class Schedules:
    """I12: a version is one schedule, wherever it is seen, and a life's answers never change."""

    def __init__(self) -> None:
        self._known: dict[int, Schedule] = {}
        self._answers: dict[tuple[str, int, int], Scheduled] = {}

    def take(self, event: Event) -> Iterator[str]:
        """Judge what a message says of the schedule."""
        match event.way, event.message:
            case "sent", Scheduled(current=current) as answer:
                yield from self._judge(current)
                key = event.to, answer.query, answer.epoch
                if self._answers.setdefault(key, answer) != answer:
                    yield f"I12 the answer to {answer.query} was another one before"
            case "sent", ClusterState(newer=InForce() as one) | Update(known=InForce() as one):
                yield from self._judge(one)
            case "sent", Heartbeat(facts=GatewayFacts(newer=InForce() as one)):
                yield from self._judge(one)

    def end(self) -> Iterator[str]:
        """Nothing is missing: what members know at rest is not in their messages."""
        yield from ()

    def _judge(self, one: InForce) -> Iterator[str]:
        if one.version and self._known.setdefault(one.version, one.schedule) != one.schedule:
            yield f"I12 version {one.version} is two schedules"
