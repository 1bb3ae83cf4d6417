"""Prefill through the whole mesh: SP=1 against SP=2, and the cost of balancing.

Two prefill processes on one thread each, decode idle. A prefill is timed by the workers'
own clocks: from the start of its first chunk to the end of its last. Sizes alternate, so that
whatever else the machine does falls on both. Run: python -m tests.bench.bench_prefill
"""

import argparse
import json
import pydoc_data.topics
import statistics
import sys
from collections.abc import Sequence

from transformers import AutoTokenizer

from compose.model_cache import DEFAULT_MODEL, ModelCache, default_directory
from tests.processes.real_mesh import RealMesh, running_mesh
from tests.processes.timeline import spans

LENGTHS = (2000, 4000, 8000)
PLANS = ("1", "2", "1,2")


def prefill_seconds(mesh: RealMesh, ids: Sequence[int], plan: str) -> tuple[float, float, float]:
    """Seconds of one prefill; balancing and chunk seconds of its members, added up."""
    seen = len(mesh.events("chunk_done"))
    body = {"model": "smollm2", "prompt": list(ids), "max_tokens": 1, "temperature": 0}
    answer = mesh.complete(body, {"x-tetris-plan": plan})
    if "choices" not in answer:
        raise SystemExit(f"the mesh refused: {answer}")
    expected = sum(int(size) for size in plan.split(","))
    mesh.wait_for("chunk_done", seen + expected)
    new = spans(mesh)[-expected:]
    events = mesh.events("chunk_done")[-expected:]
    balance = sum(event["balance"] for event in events)
    return (
        max(s.end for s in new) - min(event["came"] for event in events),
        balance,
        sum(event["ended"] - event["started"] for event in events),
    )


def real_ids() -> list[int]:
    """Python's own help as token ids of the default model."""
    path = ModelCache(default_directory(), lambda _: None).resolve(DEFAULT_MODEL)
    text = "\n\n".join(pydoc_data.topics.topics.values())[:80_000]
    tokenizer = AutoTokenizer.from_pretrained(path)
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def main() -> int:
    """Print a table, then the same figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    ids = real_ids()
    rows = []
    with running_mesh("--prefill", "2", "--dtype", options.dtype) as mesh:
        prefill_seconds(mesh, ids[:256], "2")
        for length in LENGTHS:
            figures: dict[str, list[tuple[float, float, float]]] = {plan: [] for plan in PLANS}
            for _ in range(options.repeats):
                for plan in PLANS:
                    figures[plan].append(prefill_seconds(mesh, ids[:length], plan))
            one, two, grown = (statistics.median(f[0] for f in figures[p]) for p in PLANS)
            share = sum(f[1] for f in figures["1,2"]) / sum(f[2] for f in figures["1,2"])
            rows.append(
                {
                    "tokens": length,
                    "sp1": one,
                    "sp2": two,
                    "ratio": one / two,
                    "sp1_then_2": grown,
                    "balance_per_chunk_second": share,
                }
            )
            sys.stdout.write(
                f"{length:>6} tokens  SP=1 {one:7.2f} s  SP=2 {two:7.2f} s  {one / two:5.2f}x"
                f"  1→2 {grown:7.2f} s  balancing {100 * share:.2f} % of chunk time\n"
            )
            sys.stdout.flush()
    sys.stdout.write(json.dumps({"dtype": options.dtype, "rows": rows}) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
