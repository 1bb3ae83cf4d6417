"""cdsp-priced beside the paper's policy, near capacity, also under what was not planned for."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
from msgspec.structs import replace

from common.schedule import Schedule
from compose.lab import rates
from compose.lab.experiment import Experiment
from tests.paper.grid import Grid
from tests.paper.lab import (
    LATENCY,
    LONGEST,
    MEAN,
    P50,
    P99,
    WORKLOADS,
    Scale,
    geometric,
    go,
    schedule,
    table_of,
    values,
)

SHARES = (0.75, 0.825, 0.9)
"""Of the load at which the paper's policy reaches 25 times its light-load TTFT."""
FIRST_SEED = 100
"""The default was chosen on other seeds."""
VARIANTS: dict[str, Callable[[str], Schedule]] = {
    "default (late binding, `tail:0.35`)": lambda w: schedule("cdsp-priced", w),
    "order of arrival": lambda w: schedule("cdsp-priced", w, order="arrival"),
    "order `slope:3`": lambda w: schedule("cdsp-priced", w, order="slope:3"),
    "order `tail:0.45`": lambda w: schedule("cdsp-priced", w, order="tail:0.45"),
    "sizes pinned (`replan` off)": lambda w: schedule("cdsp-priced", w, replan=False),
    "committed at arrival (`late_binding` off)": lambda w: schedule(
        "cdsp-priced", w, late_binding=False
    ),
}
CONDITIONS = {
    "as planned": {},
    "bursts (CV 2)": {"burstiness": 2.0},
    "heavy tail (sigma 0.9)": {"sigma": 0.9},
    "15 % prediction error": {"prediction_error": 0.15},
}
TRACE = Path(os.environ.get("TETRIS_TRACES", "../shared/traces")) / "mooncake"
TRACE = TRACE / "conversation_trace.jsonl"
Row = tuple[str, str, list[float]]


def measure(grid: Grid, scale: Scale) -> list[Row]:
    """(condition, variant, [P50, P99, mean, longest decile's P99]) as ratios to `cdsp`."""
    points = [
        (workload, round(share * float(np.mean(grid.max_load(workload, "cdsp", 25))), 2))
        for workload in WORKLOADS
        for share in SHARES
    ]
    seeds = range(FIRST_SEED, FIRST_SEED + scale.seeds)
    rows = []
    for condition, changes in CONDITIONS.items():
        variants = VARIANTS if not changes else dict(list(VARIANTS.items())[:3])
        schedules = [lambda w: schedule("cdsp", w), *variants.values()]
        found = table_of(f"priced, {condition}", scale, points, schedules, seeds, **changes)
        rows += _ratios(condition, list(variants), found)
        if not changes:
            rows += [
                (f"as planned, at {share:.1%} of capacity", next(iter(VARIANTS)), one)
                for index, share in enumerate(SHARES)
                for _, _, one in _ratios("", ["default"], found[index :: len(SHARES), :2])
            ]
    return rows + _mooncake(scale)


def _ratios(condition: str, names: list[str], found: np.ndarray) -> list[Row]:
    base = found[:, 0]
    return [
        (condition, name, [geometric(found[:, index, :, key] / base[..., key])
                           for key in (P50, P99, MEAN, LONGEST)])
        for index, name in enumerate(names, 1)
    ]  # fmt: skip


def _mooncake(scale: Scale) -> list[Row]:
    """One hour of a production service, prompts of 4k and more, at three paces."""
    if not TRACE.is_file():
        return []
    mapping = rates.shipped(LATENCY, "cdsp", TRACE.stem)
    base = Experiment(
        latency=LATENCY, workload=str(TRACE), min_length=4096, requests=4 * scale.requests,
        schedule=replace(schedule("cdsp", "short"), improvement_rate_mapping=mapping),
    )  # fmt: skip
    variants = dict(list(VARIANTS.items())[:3])
    runs = [
        replace(base, rate=rate, schedule=one)
        for rate in (6.75, 7.4, 8.1)
        for one in (base.schedule, *(variant("short") for variant in variants.values()))
    ]
    found = np.array([values(one) for one in go("priced, Mooncake", runs)])
    return _ratios("Mooncake trace, ≥ 4k", list(variants), found.reshape(3, 4, 1, -1))
