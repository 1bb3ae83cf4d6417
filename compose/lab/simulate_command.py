"""`tetris simulate` and `tetris rates`: a cluster in virtual time, one run or a whole sweep."""

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import msgspec
from msgspec.structs import replace

from common.config import Config
from common.errors import ConfigError
from common.schedule import Schedule, change_of, changed, in_words
from compose import preset
from compose.lab import plots, rates
from compose.lab.experiment import Experiment, Figures
from compose.lab.sweep import sweep
from compose.table import duration, table

POLICIES_WITH_RATE = ("cdsp", "single-chunk")
MAX_RUNS = 100_000
"""Of one sweep."""


def run(options: argparse.Namespace) -> int:
    """Run one of the two commands; the exit status.

    Raises:
        ConfigError: an option that cannot be used, named.
    """
    return _rates(options) if options.command == "rates" else _simulate(options)


def _simulate(options: argparse.Namespace) -> int:
    config = preset.cluster(options.preset)
    common = _experiment(config, options)
    policies, loads = options.policy or [config.schedule.policy], options.rate or [None]
    _bound(len(policies) * len(options.workload) * len(loads) * len(options.seed))
    runs = [
        replace(
            common,
            schedule=_schedule(config.schedule, policy, workload, config.router.latency, options),
            workload=workload,
            rate=rate,
            seed=seed,
        )
        for policy, workload, rate, seed in product(policies, options.workload, loads, options.seed)
    ]
    found = sweep(runs, _progress(len(runs)))
    _say(found, options.json)
    if options.plot is not None:
        plot(found, options.plot)
    return 0


def _rates(options: argparse.Namespace) -> int:
    config = preset.cluster(options.preset)
    schedule = _changed(config.schedule, {"policy": options.policy})
    if options.policy not in POLICIES_WITH_RATE:
        raise ConfigError(f"--policy: only {' and '.join(POLICIES_WITH_RATE)} have a rate")
    experiment = replace(_experiment(config, options), schedule=schedule, workload=options.workload)
    loads = rates.loads_up_to(options.top)
    _bound(rates.num_runs(loads, options.seed))
    progress = _progress(rates.num_runs(loads, options.seed))
    mapping = rates.profile(experiment, loads, options.seed, progress)
    if options.json:
        sys.stdout.write(msgspec.json.encode({"improvement_rate_mapping": mapping}).decode() + "\n")
    else:
        sys.stdout.write(rates.as_toml(options.policy, Path(options.workload).stem, mapping))
    return 0


def plot(found: Sequence[Figures], path: Path) -> None:
    """P50 and P99 over the rate, a line for each policy, with the range over the seeds.

    Raises:
        ConfigError: matplotlib is missing, or the sweep has fewer than two rates.
    """
    if len({one.rate for one in found}) < 2:
        raise ConfigError("--plot: a line needs at least two rates")
    panels = [
        plots.Panel(title, "requests per second", "seconds", _lines(found, key), log_y=True)
        for title, key in (("TTFT P50", "ttft_p50"), ("TTFT P99", "ttft_p99"))
    ]
    plots.draw_lines(path, panels)


def _lines(found: Sequence[Figures], key: str) -> list[plots.Series]:
    lines = []
    for policy in dict.fromkeys(one.policy for one in found):
        at: dict[float, list[float]] = {}
        for one in found:
            if one.policy == policy:
                at.setdefault(one.rate, []).append(getattr(one, key))
        points = sorted(at.items())
        middle = [sum(values) / len(values) for _, values in points]
        low, high = [min(values) for _, values in points], [max(values) for _, values in points]
        lines.append(plots.Series(policy, [rate for rate, _ in points], middle, low, high))
    return lines


def _bound(num_runs: int) -> None:
    if num_runs > MAX_RUNS:
        raise ConfigError(f"{num_runs} runs are too many for one sweep, which takes {MAX_RUNS}")


def _experiment(config: Config, options: argparse.Namespace) -> Experiment:
    """What all runs have in common."""
    given = {key: getattr(options, key) for key in Experiment.__struct_fields__
             if getattr(options, key, None) is not None}  # fmt: skip
    many = ("policy", "workload", "rate", "seed", "nodes", "instances_per_node")
    common = {key: value for key, value in given.items() if key not in many}
    nodes, per_node = preset.instances(config, options.nodes, options.instances_per_node)
    common |= {"latency": config.router.latency, "nodes": nodes, "instances_per_node": per_node}
    try:
        return msgspec.convert(common, Experiment)
    except msgspec.ValidationError as error:
        key, what = in_words(error)
        raise ConfigError(f"--{key.replace('_', '-')}: {what}") from None


def _schedule(
    schedule: Schedule, policy: str, workload: str, latency: str, options: argparse.Namespace
) -> Schedule:
    """The preset's, with the options and, unless a rate is fixed, the mapping profiled for it."""
    change: dict[str, Any] = {"policy": policy}
    if options.order is not None:
        change["priced"] = {"order": options.order}
    mapping = rates.shipped(latency, policy, workload)
    if options.improvement_rate is not None:
        change |= {
            "improvement_rate": options.improvement_rate,
            "improvement_rate_mapping": {},
        }
    elif mapping:
        change["improvement_rate_mapping"] = mapping
    return _changed(schedule, change)


def _changed(schedule: Schedule, change: dict[str, Any]) -> Schedule:
    try:
        return changed(schedule, change_of(change))
    except msgspec.ValidationError as error:
        key, what = in_words(error)
        option = key.rpartition(".")[2].replace("_", "-")
        raise ConfigError(f"--{option}: {what}") from None


def _say(found: Sequence[Figures], is_json: bool) -> None:
    if is_json:
        lines = [msgspec.json.encode(one).decode() for one in found]
    else:
        head = ("POLICY", "WORKLOAD", "RATE", "SEED", "P50", "P99", "MEAN", "LONG P99", "TOKENS/S")
        lines = table(head, [_row(one) for one in found], right=" ".join(head[2:]))
    sys.stdout.write("\n".join(lines) + "\n")


def _row(one: Figures) -> tuple[str, ...]:
    ttft = (one.ttft_p50, one.ttft_p99, one.ttft_mean, one.ttft_p99_longest_decile)
    return (
        one.policy,
        Path(one.workload).stem,
        f"{one.rate:g}",
        str(one.seed),
        *(f"{seconds:.3f}" for seconds in ttft),
        f"{one.throughput_tokens_per_s:.0f}",
    )


def _progress(total: int) -> Callable[[int], None]:
    """Draws a line on a terminal: how far, and how long still."""
    start = time.monotonic()

    def show(done: int) -> None:
        if not sys.stderr.isatty() or total < 2:
            return
        left = (time.monotonic() - start) / done * (total - done)
        text = f"{done} of {total} runs, {duration(left)} left" if done < total else ""
        sys.stderr.write(f"\r\x1b[K{text}")
        sys.stderr.flush()

    return show
