"""The improvement rate for every load: `tetris rates` profiles a mapping by simulation.

Source:
    Specification, section 6, SP regulation: rates of 0.05 to 0.75 are tried at arrival rates in
    steps of 0.5 requests per second, and the best one is recorded.
"""

import json
import re
import tomllib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from msgspec.structs import replace

from common.errors import ConfigError
from compose.lab.experiment import Experiment
from compose.lab.sweep import sweep

SHIPPED = Path(__file__).resolve().parent.parent / "rates"
"""One file for each latency model: a table `[policy.workload]` for each profile."""
RATES = tuple(round(0.05 * step, 2) for step in range(1, 16))
STEP, MOST = 0.5, 1000.0
"""Requests per second."""


def shipped(latency: str, policy: str, workload: str) -> dict[str, float]:
    """The mapping that was profiled for this policy and workload, or none."""
    path = SHIPPED / f"{latency}.toml"
    if not path.is_file():
        return {}
    mapping: Mapping[str, float] = tomllib.loads(path.read_text()).get(policy, {}).get(workload, {})
    return dict(mapping)


def profile(
    experiment: Experiment,
    loads: Sequence[float],
    seeds: Sequence[int],
    progress: Callable[[int], None] = lambda done: None,
) -> dict[str, float]:
    """The improvement rate with the least mean TTFT at each load.

    Args:
        experiment: all but rate, seed and improvement rate.
        loads: requests per second.
        seeds: the mean over them decides.
        progress: told how many runs are done, of `num_runs`.
    """
    runs = [
        replace(
            experiment,
            rate=load,
            seed=seed,
            schedule=replace(
                experiment.schedule, improvement_rate=rate, improvement_rate_mapping={}
            ),
        )
        for load in loads
        for rate in RATES
        for seed in seeds
    ]
    found = np.array([one.ttft_mean for one in sweep(runs, progress)])
    means = found.reshape(len(loads), len(RATES), len(seeds)).mean(axis=2)
    best = means.argmin(axis=1)
    return {f"{load:g}": RATES[index] for load, index in zip(loads, best.tolist(), strict=True)}


def num_runs(loads: Sequence[float], seeds: Sequence[int]) -> int:
    """How many simulations a profile takes."""
    return len(loads) * len(RATES) * len(seeds)


def loads_up_to(top: float) -> list[float]:
    """Arrival rates in steps of 0.5 requests per second.

    Raises:
        ConfigError: there is none.
    """
    if not STEP <= top <= MOST:
        raise ConfigError(f"--top: {STEP} to {MOST:.0f} requests per second")
    return [STEP * step for step in range(1, int(top / STEP) + 1)]


def as_toml(policy: str, workload: str, mapping: Mapping[str, float]) -> str:
    """A table of a file of profiles."""
    rows = [f'"{load}" = {rate}' for load, rate in mapping.items()]
    key = workload if re.fullmatch("[A-Za-z0-9_-]+", workload) else json.dumps(workload)
    return "\n".join([f"[{policy}.{key}]", *rows]) + "\n"
