"""Simulated requests per second of CPU time, one core: python -m tests.bench.bench_simulator."""

import statistics
import sys
import time

from common.latency import LatencyModel
from common.schedule import Pricing, Schedule
from compose.lab import rates
from compose.lab.experiment import Experiment, demands
from services.router import planner
from services.router.simulator import Cluster, Simulation

LATENCY = "a100-llama3-8b"
POLICIES = ("cdsp", "cdsp-priced", "single-chunk", "loongserve", "fixed-sp:8")
LOADS = {"light load": 1.0, "80 % of capacity": 3.4}
"""Requests per second of the workload `medium`, on 16 instances."""
REQUESTS = 5000
REPEATS = 3


def once(policy: str, rate: float) -> float:
    """Simulated requests per second."""
    mapping = rates.shipped(LATENCY, policy, "medium")
    schedule = Schedule(policy=policy, improvement_rate_mapping=mapping, priced=Pricing())
    given = demands(Experiment(latency=LATENCY, rate=rate, requests=REQUESTS))
    simulation = Simulation(Cluster(), schedule, LatencyModel.load(LATENCY))
    start = time.thread_time()
    simulation.run(given)
    return REQUESTS / (time.thread_time() - start)


def main() -> None:
    """Write one line per load and policy."""
    search = planner.SEARCH.__module__
    sys.stdout.write(f"16 instances, workload medium, {REQUESTS} requests, search: {search}\n")
    for name, rate in LOADS.items():
        for policy in POLICIES:
            found = statistics.median(once(policy, rate) for _ in range(REPEATS))
            sys.stdout.write(f"{name:<18}{policy:<14}{found:>8.0f} requests/s\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
