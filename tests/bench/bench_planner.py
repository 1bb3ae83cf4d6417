"""CPU time of one plan, beside the paper's C++ planner: python -m tests.bench.bench_planner."""

import random
import statistics
import sys
import time

from common.latency import LatencyModel
from services.router.plan import Policy, PoolView
from services.router.planner import Planner

PAPER = {8: (22.8, 52.5), 16: (25.8, 86.8), 32: (22.9, 53.4), 64: (24.9, 45.1), 128: (30.6, 73.7)}
DRAWS = 1000
REPEATS = 3
"""The least counts: other work on the machine is no property of the planner."""


def curves_up_to(size: int) -> LatencyModel:
    """The paper's 8B model, with larger sizes scaled from 16."""
    curves = dict(LatencyModel.load("a100-llama3-8b").curves)
    while max(curves) < size:
        largest = max(curves)
        last = curves[largest]
        curves[2 * largest] = last._replace(a=2 * last.a, b=last.b / 2, c=last.c / 2, d=last.d / 2)
    return LatencyModel(curves)


def measure(size: int) -> list[float]:
    """CPU microseconds of each draw: random delays, lengths and rates on nodes of 8."""
    rng = random.Random(size)
    model = curves_up_to(size)
    sizes = tuple(2**power for power in range(size.bit_length()))
    names = tuple(f"p{index}" for index in range(size))
    nodes = tuple(f"n{index // 8}" for index in range(size))
    taken = []
    for _ in range(DRAWS):
        view = PoolView(names, nodes, tuple(rng.uniform(0, 3) for _ in names))
        planner = Planner(Policy(sizes, rng.uniform(0.05, 0.75), 128))
        length = rng.randint(4096, 262144)
        taken.append(min(once(planner, length, view, model) for _ in range(REPEATS)))
    return taken


def once(planner: Planner, length: int, view: PoolView, model: LatencyModel) -> float:
    """CPU microseconds of one plan."""
    start = time.thread_time()
    planner.plan(length, view, model)
    return (time.thread_time() - start) * 1e6


def main() -> None:
    """Write one line per pool size."""
    out = sys.stdout.write
    out(f"{'instances':>9} {'avg us':>8} {'max us':>8} {'paper avg':>10} {'paper max':>10}\n")
    for size, (mean, worst) in PAPER.items():
        taken = measure(size)
        out(f"{size:>9} {statistics.mean(taken):>8.1f} {max(taken):>8.1f} {mean:>10} {worst:>10}\n")


if __name__ == "__main__":
    main()
