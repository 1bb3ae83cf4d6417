"""TTFT over the rate for every policy and workload, and what follows from it."""

from dataclasses import dataclass

import numpy as np

from tests.paper.lab import (
    BASELINES,
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
    schedules = [lambda workload, policy=policy: schedule(policy, workload) for policy in POLICIES]
    return Grid(
        scale,
        {
            workload: table_of(
                f"TTFT over the rate, {workload}",
                scale,
                [(workload, rate) for rate in scale.rates(workload)],
                schedules,
                scale.all_seeds,
            )
            for workload in WORKLOADS
        },
    )
