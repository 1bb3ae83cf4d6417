"""Admission under overload: python -m tests.bench.bench_overload [--url http://...].

Requests come at ten times the measured capacity for a minute. Without `--url` the whole control
plane runs in virtual time with emulated engines whose chunks take up to 5 % more or less than
predicted; with it, a mesh that serves somewhere is asked, and its processes' memory is watched
where they run on this machine. Counted are the errors of the predicted TTFT of accepted requests
(from the router's receipt, and from the door), and of those who return after Retry-After how many
are accepted: of all probes, and of those that return while the overload lasts.
"""

import argparse
import asyncio
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from common.config import GatewayConfig, RouterConfig
from common.schedule import Pricing, Schedule
from loadgen.lengths import OUTPUTS, WORKLOADS, Lengths, workload
from tests.bench import overload_live
from tests.bench.overload_figures import HEAD, line
from tests.simulation.cluster import Cluster
from tests.simulation.overload import Overload, capacity, overload
from tests.simulation.virtual_loop import run

ERROR = 0.05
BRIEF = Lengths(1, 8, 64, sigma=0.8)
"""Answers where decode is not the point."""
HOURS = 20_000.0
"""Virtual seconds for the last client to get its turn."""


def case(
    name: str = "short",
    schedule: Schedule | None = None,
    outputs: Lengths = BRIEF,
    max_ttft: float = 60.0,
    **cluster: int,
) -> Overload:
    """Ten times the capacity of the paper's cluster; the rate is filled in once it is known."""
    whole = Cluster(
        error=ERROR,
        gateway=GatewayConfig(max_requests=4096),
        router=RouterConfig(calibrate_seconds=0.0, learn=False, max_ttft=max_ttft),
        schedule=schedule or Schedule(),
        **cluster,
    )
    return Overload(whole, workload(name), outputs, rate=1.0)


def cases() -> dict[str, Overload]:
    """All that is tried in virtual time, by name."""
    arrival = Schedule(policy="cdsp-priced", priced=Pricing(order="arrival"))
    tail = Schedule(policy="cdsp-priced")
    found: dict[str, Overload] = {}
    for name in WORKLOADS:
        found[f"{name}, probes return"] = case(name)
    short, medium = case(), case("medium")
    return found | {
        "short, nobody returns": replace(short, returning="none"),
        "short, all return": replace(short, returning="all"),
        "medium, all return": replace(medium, returning="all"),
        "short, probes, no promises": replace(short, promises=False),
        "short, all, no promises": replace(short, returning="all", promises=False),
        "short, max_ttft 300": case(max_ttft=300.0),
        "medium, 100k KV of prefill": case("medium", prefill_tokens=100_000),
        "medium, 400k KV of decode": case("medium", outputs=OUTPUTS, decode_tokens=400_000),
        "medium, priced by arrival": case("medium", arrival),
        "medium, priced tail:0.35": case("medium", tail),
    }


def play(name: str, one: Overload, factor: float, seconds: float) -> None:
    """Measure the capacity, exceed it, and write a line."""
    begun = time.perf_counter()
    with tempfile.TemporaryDirectory() as path:
        able = run(capacity(Path(path), one))
        one = replace(one, rate=factor * able, seconds=seconds)
        result = run(overload(Path(path), one), HOURS)
    sys.stdout.write(f"{line(name, able, seconds, result)}\n")
    sys.stdout.flush()
    sys.stderr.write(f"  {name}: {time.perf_counter() - begun:.0f} s\n")


def main() -> None:
    """Write the table."""
    parser = argparse.ArgumentParser(description="admission under overload")
    parser.add_argument("--factor", type=float, default=10.0, help="times the capacity")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--only", default="", help="cases whose names begin so")
    overload_live.add_options(parser)
    options = parser.parse_args()
    sys.stdout.write(f"{HEAD}\n")
    sys.stdout.flush()
    if options.url:
        asyncio.run(overload_live.main(options))
        return
    for name, one in cases().items():
        if name.startswith(options.only):
            play(name, one, options.factor, options.seconds)


if __name__ == "__main__":
    main()
