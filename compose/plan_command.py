"""`tetris plan`: one prompt, one cluster, one plan, and why."""

import argparse
import sys
from pathlib import Path

import msgspec

from common.config import Config
from common.errors import ConfigError, RequestFailed
from common.latency import LatencyModel
from common.schedule import Schedule, change_of, changed, place_of
from compose import preset
from compose.delays import delays_of
from compose.plan_text import plan_text
from services.router.explain import explain
from services.router.plan import Plan, Policy, PoolView, Reused
from services.router.plan_answer import plan_answer
from services.router.planner import Planner
from services.router.prefix import Share, shares
from services.router.scheduler import Scheduler

OPTIONS = {
    "policy": "policy",
    "improvement_rate": "improvement_rate",
    "sizes": "sp_size_candidates",
    "min_chunk": "min_chunk",
}
"""Options that change the schedule, and its keys."""


def run(options: argparse.Namespace) -> int:
    """Print the plan that the options ask for; the exit status.

    Raises:
        ConfigError: a preset, option or file is wrong, or they do not fit each other.
    """
    config = preset.cluster(options.preset)
    view = _view(config, options)
    model = LatencyModel.load(config.router.latency)
    try:
        scheduler = Scheduler(_schedule(config.schedule, options), model)
        policy = scheduler.policy(options.waiting, view, now=0.0)
        plan, tried = _plan(options, policy, view, model)
    except RequestFailed as error:
        raise ConfigError(str(error)) from None
    told = explain(plan, model)
    if options.json:
        sys.stdout.write(msgspec.json.encode(plan_answer(told, tried)).decode() + "\n")
    else:
        sys.stdout.write(plan_text(told, Path(config.router.latency).stem, tried) + "\n")
    return 0


def _view(config: Config, options: argparse.Namespace) -> PoolView:
    nodes, per_node = preset.instances(config, options.nodes, options.instances_per_node)
    count = nodes * per_node
    return PoolView(
        names=tuple(f"p{index}" for index in range(count)),
        nodes=tuple(f"n{index // per_node}" for index in range(count)),
        delays=delays_of(options.delays, count),
    )


def _schedule(schedule: Schedule, options: argparse.Namespace) -> Schedule:
    """The preset's with the options; those who wait do so in the queue, as many as `--waiting`."""
    given = {key: getattr(options, option) for option, key in OPTIONS.items()}
    change = {key: value for key, value in given.items() if value is not None}
    try:
        return changed(schedule, change_of({**change, "priced": {"late_binding": True}}))
    except msgspec.ValidationError as error:
        key, what = place_of(error)
        named = [name for name, known in OPTIONS.items() if known == key.partition("[")[0]]
        raise ConfigError(f"--{named[0].replace('_', '-')}: {what}") from None


def _plan(
    options: argparse.Namespace, policy: Policy, view: PoolView, model: LatencyModel
) -> tuple[Plan, list[Share]]:
    """The plan, and where a prefix is cached what came of each share of it."""
    if options.prefix is None:
        reused = Reused(options.history)
        return Planner(policy).plan(options.length, view, model, reused), []
    tokens, indices = options.prefix
    if max(indices) >= len(view.names):
        raise ConfigError(f"--prefix: there are {len(view.names)} instances, counted from 0")
    prefix = Reused(tokens, tuple(view.names[index] for index in indices))
    tried = shares(prefix, options.length, view, policy, model)
    return min(tried, key=lambda share: share.cost).plan, tried
