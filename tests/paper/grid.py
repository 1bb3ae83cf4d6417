"""TTFT over the rate for every policy and workload, and what follows from it."""

from dataclasses import dataclass

import numpy as np

from tests.paper.lab import (
    BASELINES,
    KEYS,
    P50,
    POLICIES,
    WORKLOADS,
    Scale,
    crossing,
    schedule,
    table_of,
)

LIMITS = (25, 5)
"""Times the TTFT of light load."""


@dataclass(frozen=True)
class Grid:
    """[rate, policy, seed, key] for each workload."""

    scale: Scale
    figures: dict[str, np.ndarray]

    def of(self, workload: str, policy: str) -> np.ndarray:
        """[rate, seed, key]"""
        return self.figures[workload][:, POLICIES.index(policy)]

    def light(self, workload: str) -> float:
        """The reference of all policies: CDSP's P50 at the lowest rate."""
        return float(self.of(workload, "cdsp")[0, :, P50].mean())

    def max_load(self, workload: str, policy: str, limit: int) -> list[float]:
        """The highest rate at which P50 stays within `limit` times light load, for each seed."""
        found, loads = self.of(workload, policy), self.scale.rates(workload)
        ceiling = limit * self.light(workload)
        return [crossing(loads, found[:, seed, P50], ceiling) for seed in self.scale.all_seeds]

    def critical(self, workload: str) -> tuple[float, str]:
        """The highest rate at which the best baseline of the paper stays within 5 times."""
        loads = {policy: float(np.mean(self.max_load(workload, policy, 5))) for policy in BASELINES}
        best = max(loads, key=loads.__getitem__)
        return loads[best], best


def measure(scale: Scale) -> Grid:
    return Grid(scale, {workload: _climb(scale, workload) for workload in WORKLOADS})


def _climb(scale: Scale, workload: str) -> np.ndarray:
    """Rate by rate; a policy that is far beyond its capacity goes no further (NaN)."""
    found = np.full((len(scale.rates(workload)), len(POLICIES), scale.seeds, len(KEYS)), np.nan)
    left, light = list(POLICIES), 0.0
    for index, rate in enumerate(scale.rates(workload)):
        schedules = [lambda w, policy=policy: schedule(policy, w) for policy in left]
        rows = [POLICIES.index(policy) for policy in left]
        title = f"{workload}, {rate:g} requests/s, {len(left)} policies"
        found[index, rows] = table_of(title, scale, [(workload, rate)], schedules, scale.all_seeds)[
            0
        ]
        light = light or float(found[0, POLICIES.index("cdsp"), :, P50].mean())
        least = found[index, ..., P50].min(axis=1)
        left = [one for one in left if least[POLICIES.index(one)] <= LIMITS[0] * light]
        if not left:
            break
    return found
