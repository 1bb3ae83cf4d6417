"""One simulated run: a cluster, a schedule and a workload in, the figures of its TTFT out."""

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import numpy as np
from msgspec import Meta, Struct

from common.errors import ConfigError
from common.latency import LatencyModel
from common.schedule import Schedule
from loadgen.arrivals import draw_arrivals
from loadgen.lengths import MAX_SIGMA, MIN_SIGMA, WORKLOADS, workload
from loadgen.traces import TraceError, read_trace
from services.router.simulator import Cluster, Demand, Outcome, Simulation

WARM_UP = 100
"""Requests at the head of a run that its figures leave out."""

Positive = Annotated[int, Meta(ge=1, le=2**31 - 1)]
Count = Annotated[int, Meta(ge=1, le=1024)]
Share = Annotated[float, Meta(ge=0, le=10)]


class Experiment(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """All that decides a run; the same experiment gives the same figures."""

    latency: str
    """A latency model's name or path."""
    schedule: Schedule = Schedule()
    workload: str = "medium"
    """`short`, `medium`, `long`, or the path of a trace."""
    rate: Annotated[float, Meta(gt=0, le=1e6)] | None = None
    """Requests per second; None for a trace's own."""
    requests: Annotated[int, Meta(ge=1, le=1_000_000)] = 2000
    seed: Annotated[int, Meta(ge=0, le=2**63 - 1)] = 0
    sigma: Annotated[float, Meta(ge=MIN_SIGMA, le=MAX_SIGMA)] | None = None
    burstiness: Annotated[float, Meta(ge=0, le=100)] = 1.0
    """Coefficient of variation of the gaps between arrivals."""
    time_scale: Annotated[float, Meta(gt=0, le=1e6)] = 1.0
    """Of a trace's arrival times; 0.5 is twice the rate."""
    min_length: Positive = 1
    """Tokens; shorter prompts of a trace are left out."""
    nodes: Count = 2
    instances_per_node: Count = 8
    decode: Count = 2
    prediction_error: Share = 0.0
    """Relative standard deviation of a chunk's seconds around the predicted ones."""
    transfer_seconds: Share = 0.0
    """To hand over the KV of one token from one instance."""
    token_seconds: Share = 0.02
    """Between two tokens of an answer."""
    prefill_tokens: Positive | None = None
    """KV of a prefill instance; None for as much as is wanted."""
    decode_tokens: Positive | None = None
    """KV of a decode instance; None for as much as is wanted."""


class Figures(Struct, frozen=True, kw_only=True):
    """What came of it; seconds and tokens, without the first requests."""

    policy: str
    workload: str
    rate: float
    requests: int
    seed: int
    ttft_p50: float
    ttft_p99: float
    ttft_mean: float
    ttft_p99_longest_decile: float
    """Of the tenth of the requests with the longest prompts."""
    throughput_tokens_per_s: float
    """Prompt tokens from the first arrival to the last first token."""
    chunks_histogram: dict[str, int]
    """Requests by number of chunks."""
    sp_histogram: dict[str, int]
    """Chunks by SP size."""


def demands(experiment: Experiment) -> list[Demand]:
    """The requests of an experiment, the same under every schedule.

    Raises:
        ConfigError: a workload that is neither known nor a trace, or has no such spread, a trace
            that cannot be read.
    """
    if experiment.workload not in WORKLOADS:
        return _of_trace(experiment)
    if experiment.rate is None:
        raise ConfigError(f"the workload {experiment.workload} needs a rate")
    try:
        lengths = workload(experiment.workload, experiment.sigma)
    except ValueError as error:
        raise ConfigError(f"--sigma: {error}") from None
    drawn = draw_arrivals(
        experiment.requests,
        experiment.rate,
        lengths,
        seed=experiment.seed,
        cv=experiment.burstiness,
    )
    return [Demand(*arrival) for arrival in drawn]


def run(experiment: Experiment) -> Figures:
    """Simulate it.

    Raises:
        ConfigError: the latency model or the workload cannot be had.
        RequestFailed: a schedule that the latency model does not know, or a prompt that never fits.
    """
    given = demands(experiment)
    return figures(experiment, given, outcomes(experiment, given))


def outcomes(experiment: Experiment, given: list[Demand]) -> list[Outcome]:
    """What becomes of each request; errors as those of `run`."""
    cluster = Cluster(
        nodes=experiment.nodes,
        instances_per_node=experiment.instances_per_node,
        prefill_tokens=experiment.prefill_tokens,
        decode=experiment.decode,
        decode_tokens=experiment.decode_tokens,
        token_seconds=experiment.token_seconds,
        transfer_seconds=experiment.transfer_seconds,
        error=experiment.prediction_error,
    )
    model = LatencyModel.load(experiment.latency)
    return Simulation(cluster, experiment.schedule, model, experiment.seed).run(given)


def figures(experiment: Experiment, given: list[Demand], done: list[Outcome]) -> Figures:
    """The figures of a run of more than `WARM_UP` requests, or of all of a shorter one."""
    kept = done[WARM_UP:] or done
    ttft = np.array([one.ttft for one in kept])
    length = np.array([one.length for one in kept])
    longest = ttft[length >= np.percentile(length, 90)]
    first, last = min(one.at for one in kept), max(one.at + one.ttft for one in kept)
    span = given[-1].at - given[0].at
    return Figures(
        policy=experiment.schedule.policy,
        workload=experiment.workload,
        rate=experiment.rate or (len(given) / span if span else 0.0),
        requests=len(done),
        seed=experiment.seed,
        ttft_p50=float(np.percentile(ttft, 50)),
        ttft_p99=float(np.percentile(ttft, 99)),
        ttft_mean=float(ttft.mean()),
        ttft_p99_longest_decile=float(np.percentile(longest, 99)),
        throughput_tokens_per_s=float(length.sum() / (last - first)),
        chunks_histogram=_histogram(len(one.sizes) for one in kept),
        sp_histogram=_histogram(size for one in kept for size in one.sizes),
    )


def _of_trace(experiment: Experiment) -> list[Demand]:
    path = Path(experiment.workload)
    if not path.is_file():
        names = ", ".join(WORKLOADS)
        raise ConfigError(f"no workload {experiment.workload!r}: give {names}, or a trace's path")
    try:
        arrivals = read_trace(
            path,
            time_scale=experiment.time_scale,
            min_length=experiment.min_length,
            limit=experiment.requests,
        )
    except TraceError as error:
        raise ConfigError(str(error)) from None
    span = arrivals[-1].at
    # A wanted rate stretches the whole trace.
    scale = (len(arrivals) / span / experiment.rate) if experiment.rate and span else 1.0
    return [Demand(at * scale, length, output) for at, length, output in arrivals]


def _histogram(values: Iterable[int]) -> dict[str, int]:
    counts = Counter(values)
    return {str(value): counts[value] for value in sorted(counts)}
