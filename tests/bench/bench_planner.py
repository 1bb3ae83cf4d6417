"""CPU time of one plan, beside the paper's C++ planner: python -m tests.bench.bench_planner.

Measured is `Planner.plan` as the router calls it, from the view of the pool to the finished plan,
with the compiled search and with the one in plain Python.
"""

import argparse
import random
import sys
import time
from collections.abc import Iterator

import numpy as np

from common.latency import LatencyModel
from services.router import planner, search
from services.router.plan import Policy, PoolView
from services.router.planner import Planner

try:
    from services.router import _search as core
except ImportError:
    core = None

PAPER = {8: (22.8, 52.5), 16: (25.8, 86.8), 32: (22.9, 53.4), 64: (24.9, 45.1), 128: (30.6, 73.7)}
"""Mean and maximum in microseconds by the largest SP size, 1,000 draws each."""
POOLS = [(size, size) for size in PAPER]
POOLS += [(count, size) for size in (16, 128) for count in (128, 256, 512, 1024) if count > size]
"""Instances and the largest SP size."""
REPEATS = {"compiled": 3, "python": 1}
"""The least counts: other work on the machine is no property of the planner."""

Draw = tuple[Planner, int, PoolView, LatencyModel]


def curves_up_to(size: int) -> LatencyModel:
    """The paper's 8B model, with larger sizes scaled from 16."""
    curves = dict(LatencyModel.load("a100-llama3-8b").curves)
    while max(curves) < size:
        largest = max(curves)
        last = curves[largest]
        curves[2 * largest] = last._replace(a=2 * last.a, b=last.b / 2, c=last.c / 2, d=last.d / 2)
    return LatencyModel(curves)


def draws(policy: str, count: int, largest: int, number: int) -> Iterator[Draw]:
    """Random delays, lengths, rates and prices on nodes of 8."""
    rng = random.Random(largest)
    model = curves_up_to(largest)
    sizes = tuple(2**power for power in range(largest.bit_length()))
    names = tuple(f"p{index}" for index in range(count))
    # One object for each node, as in the router's pool.
    nodes = tuple(sys.intern(f"n{index // 8}") for index in range(count))
    for _ in range(number):
        view = PoolView(names, nodes, tuple(rng.uniform(0, 3) for _ in names))
        length, rate = rng.randint(4096, 262144), rng.uniform(0.05, 0.75)
        price = (2 + 8 * rng.randint(0, 10)) / count
        yield Planner(Policy(sizes, rate, 128, policy, price)), length, view, model


def measure(policy: str, count: int, largest: int, number: int, core: str) -> list[float]:
    """CPU microseconds of each draw."""
    return [
        min(once(*draw) for _ in range(REPEATS[core]))
        for draw in draws(policy, count, largest, number)
    ]


def once(planner: Planner, length: int, view: PoolView, model: LatencyModel) -> float:
    """CPU microseconds of one plan."""
    start = time.thread_time()
    planner.plan(length, view, model)
    return (time.thread_time() - start) * 1e6


def main() -> None:
    """Write one line per policy, pool and core."""
    parser = argparse.ArgumentParser(description="CPU time of one plan")
    parser.add_argument("--draws", type=int, default=1000)
    parser.add_argument("--core", choices=("compiled", "python", "both"), default="both")
    options = parser.parse_args()
    cores = {"python": search.search}
    if core is None:
        sys.stdout.write("the compiled search has not been built: pip install -e .\n")
    else:
        cores = {"compiled": core.search, **cores}
    sys.stdout.write(
        f"{'policy':<12}{'instances':>10}{'max SP':>7}  {'search':<9}"
        f"{'mean us':>9}{'p50':>9}{'p99':>9}{'max':>9}{'paper mean':>12}{'max':>6}\n"
    )
    for policy in ("cdsp", "cdsp-priced"):
        for count, largest in POOLS:
            for name, solve in cores.items():
                if options.core not in (name, "both"):
                    continue
                planner.SEARCH = solve
                taken = np.array(measure(policy, count, largest, options.draws, name))
                numbers = (taken.mean(), *np.percentile(taken, (50, 99)), taken.max())
                mean, most = PAPER[largest]
                sys.stdout.write(
                    f"{policy:<12}{count:>10}{largest:>7}  {name:<9}"
                    + "".join(f"{number:>9.1f}" for number in numbers)
                    + f"{mean:>12}{most:>6}\n"
                )
                sys.stdout.flush()


if __name__ == "__main__":
    main()
