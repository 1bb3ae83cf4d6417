"""Clusters and loads that the board is looked at with."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from loadgen.lengths import Lengths
from services.router.simulator import Demand


@dataclass(frozen=True)
class Scene:
    """A cluster under one load; requests per second, tokens, seconds."""

    nodes: int = 2
    per_node: int = 8
    decode: int = 2
    rate: float = 1.5
    lengths: tuple[int, int, int] = (4_000, 60_000, 190_000)
    policy: str = "cdsp"
    sizes: tuple[int, ...] = (1, 2, 4, 8, 16)
    improvement_rate: float = 0.1
    error: float = 0.05
    speed: float = 1.0
    """Seconds of a chunk over those of the preset."""
    node_name: str = "node-{}"
    instance_name: str = "prefill-{}"


SCENES = {
    "light": Scene(rate=0.22, speed=2.0),
    "heavy": Scene(rate=0.55, speed=2.2),
    "overload": Scene(rate=2.6, improvement_rate=0.3),
    "waiting": Scene(rate=1.9, policy="cdsp-priced"),
    "laptop": Scene(1, 4, 1, rate=0.8, lengths=(1_000, 12_000, 60_000), sizes=(1, 2, 4)),
    "large": Scene(4, 8, 4, rate=1.1, speed=2.2),
    "rush": Scene(
        4, 8, 4, rate=60.0, lengths=(500, 6_000, 90_000), improvement_rate=0.3, speed=0.7
    ),
    "crowd": Scene(
        128,
        1,
        6,
        rate=8.5,
        node_name="ip-10-32-118-{}.eu-central-1.compute.example",
        instance_name="tetris-prefill-worker-replica-{}",
    ),
    "idle": Scene(rate=1e-6),
    "empty": Scene(0, 0, 0, rate=1e-6),
}


def demands(scene: Scene, seed: int = 1) -> Iterator[Demand]:
    """Requests of a scene, for ever: Poisson arrivals, long-tailed prompts and answers."""
    rng = np.random.default_rng(seed)
    least, mean, most = scene.lengths
    prompts, at = Lengths(least, mean, most, 1.1), 0.0
    while True:
        for length in prompts.draw(64, rng):
            at += float(rng.exponential(1 / scene.rate))
            yield Demand(at, length, int(rng.integers(50, 900)))
