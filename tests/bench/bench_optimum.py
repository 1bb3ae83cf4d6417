"""How far Algorithm 1's plans are from the best ones: python -m tests.bench.bench_optimum.

See tests/services/router/optimum.py for what is tried and what the kinds of forced pools are.
"""

import argparse
import sys
from itertools import groupby

import numpy as np

from tests.services.router.optimum import Verdict, judge, paper_case, random_case


def table(verdicts: list[Verdict]) -> str:
    """Gaps of all pools and of those that are not forced."""
    rows = {"all pools": [one.gap for one in verdicts]}
    for why in ("", "first", "later", "placing"):
        name = f"forced: {why}" if why else "not forced"
        rows[name] = [one.gap for one in verdicts if one.forced == why]
    rows["all pools, cdsp-priced at 0"] = [one.free_gap for one in verdicts]
    lines = [f"{'gap to the optimum, %':<28} {'pools':>6} {'mean':>8} {'p99':>8} {'max':>8}"]
    for name, chosen in rows.items():
        gaps = 100 * np.array(chosen or [0.0])
        numbers = f"{gaps.mean():8.3f} {np.percentile(gaps, 99):8.3f} {gaps.max():8.3f}"
        lines.append(f"{name:<28} {len(chosen):>6} {numbers}")
    return "\n".join(lines)


def line(one: Verdict) -> str:
    """One pool."""
    nodes = groupby(zip(one.case.view.nodes, one.case.view.delays, strict=True), lambda it: it[0])
    delays = " | ".join(" ".join(f"{delay:.2f}" for _, delay in queue) for _, queue in nodes)
    plan = " + ".join(f"{chunk.size}:{chunk.length}" for chunk in one.plan.chunks)
    ends = [0, *(end for _, end in one.best.chunks)]
    best = " + ".join(
        f"{len(group)}:{end - begin}"
        for (group, end), begin in zip(one.best.chunks, ends[:-1], strict=True)
    )
    return (
        f"{100 * one.gap:6.2f} % {one.forced:<7} {one.case.length:>6} tokens, delays {delays}; "
        f"plan {plan} in {one.plan.ttft:.3f} s, best {best} in {one.best.ttft:.3f} s"
    )


def main() -> None:
    """Write the tables, and the worst pools one by one."""
    parser = argparse.ArgumentParser(description="Algorithm 1 beside the optimum")
    parser.add_argument("--pools", type=int, default=1000)
    parser.add_argument("--list", type=int, default=20, help="how many forced pools to list")
    options = parser.parse_args()
    for title, draw in (
        ("2 to 8 instances on one or two nodes, 1k to 256k tokens", random_case),
        ("8 instances on one node, the paper's draws", paper_case),
    ):
        verdicts = [judge(draw(seed)) for seed in range(options.pools)]
        sys.stdout.write(f"{title}\n{table(verdicts)}\n")
        worst = sorted((one for one in verdicts if one.forced), key=lambda one: -one.gap)
        sys.stdout.writelines(f"{line(one)}\n" for one in worst[: options.list])


if __name__ == "__main__":
    main()
