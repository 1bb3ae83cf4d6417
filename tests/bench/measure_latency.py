"""Measure prefill on this machine's mesh and fit the latency model that the planner reads.

Forced plans put chunks of many lengths behind many histories; the workers' own clocks time them.
Sizes beyond the measured ones divide the work of the largest by their ratio. What was measured
lies beside FILE as a CSV that `tetris fit` reads. Run: python -m tests.bench.measure_latency FILE
"""

import argparse
import sys
from pathlib import Path

from common.latency import Curve, LatencyModel, Sample
from compose.fit import quality, report
from compose.measured import COLUMNS
from tests.bench.bench_prefill import real_ids
from tests.processes.real_mesh import RealMesh, running_mesh

HISTORIES = (0, 1000, 3000)
LENGTHS = (64, 256, 700, 1500, 3000)
SIZES = (1, 2)
LARGEST = 16


def measure(mesh: RealMesh, ids: list[int], size: int) -> list[Sample]:
    """One chunk of every length behind every history, all on groups of `size`."""
    return [
        measure_chunk(mesh, ids, size, history, length)
        for history in HISTORIES
        for length in LENGTHS
    ]


def measure_chunk(mesh: RealMesh, ids: list[int], size: int, history: int, length: int) -> Sample:
    """One chunk on a group of `size` that has computed its history just before."""
    plan = f"{size}:{history},{size}" if history else f"{size}"
    seen = len(mesh.events("chunk_done"))
    prompt = ids[: history + length]
    body = {"model": "smollm2", "prompt": prompt, "max_tokens": 1, "temperature": 0}
    answer = mesh.complete(body, {"x-tetris-plan": plan})
    if "choices" not in answer:
        raise SystemExit(f"the mesh refused: {answer}")
    mesh.wait_for("chunk_done", seen + size * (2 if history else 1))
    done = [e for e in mesh.events("chunk_done")[seen:] if e["history"] == history]
    seconds = max(e["ended"] for e in done) - min(e["started"] for e in done)
    sys.stdout.write(f"size {size}  C {history:>5}  L {length:>5}  {seconds:7.3f} s\n")
    sys.stdout.flush()
    return Sample(size, history, length, seconds)


def extended(model: LatencyModel) -> LatencyModel:
    """With sizes up to `LARGEST`, each with half the work of the size before it."""
    curves = dict(model.curves)
    while max(curves) < LARGEST:
        size = max(curves)
        last = curves[size]
        curves[2 * size] = Curve(last.a, last.b / 2, last.c / 2, last.d / 2)
    return LatencyModel(curves)


def main() -> int:
    """Measure, fit, say how well it fits, and write the file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path)
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    options = parser.parse_args()
    ids = real_ids()
    with running_mesh("--prefill", str(max(SIZES)), "--dtype", options.dtype) as mesh:
        samples = [sample for size in SIZES for sample in measure(mesh, ids, size)]
    fitted = LatencyModel.fit(samples)
    mean, worst = quality(samples, fitted)
    comment = (
        f"Prefill seconds of SmolLM2-135M in {options.dtype} on a CPU, one thread per instance.\n"
        f"Sizes {SIZES} are fitted to {len(samples)} measured chunks: mean error {mean:.1%}, worst"
        f" {worst:.1%}.\nLarger sizes are a scaling: half the work of the size before."
    )
    extended(fitted).dump(options.file, comment)
    rows = [",".join(COLUMNS), *(",".join(map(str, sample)) for sample in samples)]
    options.file.with_suffix(".csv").write_text("\n".join(rows) + "\n")
    sys.stdout.write(f"{report(samples, fitted)}\n{comment}\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
