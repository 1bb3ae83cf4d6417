"""What the report of the paper's evaluation runs: policies, workloads, rates, and their figures."""

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from msgspec.structs import replace

from common.schedule import Pricing, Schedule
from compose.lab import rates
from compose.lab.experiment import Experiment, Figures
from compose.lab.sweep import sweep
from compose.table import duration

LATENCY = "a100-llama3-8b"
WORKLOADS = ("short", "medium", "long")
BASELINES = ("fixed-sp:8", "fixed-sp:16", "loongserve")
"""Those of the paper."""
POLICIES = ("cdsp", "cdsp-priced", "single-chunk", *BASELINES, "fixed-sp:4", "fixed-sp:2")
RATES = {
    "short": tuple(0.5 * step for step in range(1, 18)),
    "medium": tuple(0.25 * step for step in range(1, 21)),
    "long": tuple(0.25 * step for step in range(1, 13)),
}
"""Requests per second; the first is light load."""
KEYS = ("ttft_p50", "ttft_p99", "ttft_mean", "ttft_p99_longest_decile", "throughput_tokens_per_s")
P50, P99, MEAN, LONGEST, THROUGHPUT = range(5)


@dataclass(frozen=True)
class Scale:
    """How much is simulated."""

    requests: int = 2000
    seeds: int = 10
    thin: int = 1
    """Take every so-manieth rate of the grid."""

    def rates(self, workload: str) -> tuple[float, ...]:
        return RATES[workload][:: self.thin]

    @property
    def all_seeds(self) -> range:
        return range(self.seeds)


def schedule(policy: str, workload: str, **priced: object) -> Schedule:
    """A policy at its best: with the mapping that was profiled for it, where it has one."""
    mapping = rates.shipped(LATENCY, policy, workload)
    return Schedule(
        policy=policy,
        improvement_rate=0.25,
        improvement_rate_mapping=mapping,
        priced=Pricing(**priced),
    )


def fixed_rate(workload: str, rate: float) -> Schedule:
    """The paper's policy without regulation."""
    return replace(schedule("cdsp", workload), improvement_rate=rate, improvement_rate_mapping={})


def table_of(
    title: str,
    scale: Scale,
    points: Sequence[tuple[str, float]],
    schedules: Sequence[Callable[[str], Schedule]],
    seeds: Sequence[int],
    **changes: object,
) -> np.ndarray:
    """The figures of all combinations: [point, schedule, seed, key]."""
    runs = [
        Experiment(
            latency=LATENCY, workload=workload, rate=rate, schedule=one(workload), seed=seed,
            requests=scale.requests, **changes,
        )
        for (workload, rate), one, seed in product(points, schedules, seeds)
    ]  # fmt: skip
    found = [values(one) for one in go(title, runs)]
    return np.array(found).reshape(len(points), len(schedules), len(seeds), len(KEYS))


def values(one: Figures) -> list[float]:
    return [getattr(one, key) for key in KEYS]


def go(title: str, runs: Sequence[Experiment]) -> list[Figures]:
    """A sweep that says how far it is, about every tenth part."""
    start, step = time.monotonic(), max(1, len(runs) // 10)

    def progress(done: int) -> None:
        if done % step == 0 or done == len(runs):
            left = (time.monotonic() - start) / done * (len(runs) - done)
            sys.stderr.write(f"{title}: {done} of {len(runs)} runs, {duration(left)} left\n")

    return sweep(runs, progress)


def crossing(loads: Sequence[float], latency: Sequence[float], limit: float) -> float:
    """The highest load up to which latency stays within the limit, between points log-linear."""
    above = [index for index, value in enumerate(latency) if value > limit]
    if not above:
        return float(loads[-1])
    first = above[0]
    if first == 0:
        return 0.0
    low, high = np.log(latency[first - 1]), np.log(latency[first])
    share = (np.log(limit) - low) / (high - low)
    return float(loads[first - 1] + share * (loads[first] - loads[first - 1]))


def geometric(ratios: np.ndarray) -> float:
    return float(np.exp(np.log(ratios).mean()))
