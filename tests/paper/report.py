"""The paper's evaluation in simulation, ours beside the paper's figures: `make paper`.

python -m tests.paper.report [--folder docs] [--seeds 10] [--requests 2000]
"""

import argparse
import sys
import time
from pathlib import Path

from compose.table import duration
from tests.paper import grid, sections
from tests.paper.lab import Scale

HEAD = """# The paper's evaluation, reproduced in simulation

Written by `make paper`, which measures every figure but those marked as the paper's and those of
what was tried and left out (runs during development).
The cluster is the paper's for LLaMA3-8B: 16 prefill instances on two nodes, with the
latency model fitted to its Table I; chunks take exactly as long as predicted unless said otherwise,
KV memory, transfer and decode are not limits. The workloads are truncated log-normals with the
paper's minimum, mean and maximum (its traces are private), arrivals are Poisson. What these
figures are not: a measurement of GPUs.

"""


def report(folder: Path, scale: Scale) -> str:
    """Write the pictures into `folder`/paper; the page."""
    pictures = folder / "paper"
    pictures.mkdir(parents=True, exist_ok=True)
    found = grid.measure(scale)
    page = [
        sections.fit(),
        sections.lines(found, pictures),
        sections.loads(found),
        sections.critical(found, pictures),
        sections.regulation(found),
        sections.chunking(found),
        sections.priced(found, scale),
        sections.planner_time(min(1000, scale.requests)),
    ]
    return HEAD + "\n".join(page)


def main() -> int:
    """Write the page and its pictures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path("docs"))
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--thin", type=int, default=1, help="take every so-manieth rate")
    options = parser.parse_args()
    start = time.monotonic()
    scale = Scale(options.requests, options.seeds, options.thin)
    page = report(options.folder, scale)
    (options.folder / "paper.md").write_text(page, encoding="utf-8")
    sys.stdout.write(f"{options.folder / 'paper.md'} after {duration(time.monotonic() - start)}\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
