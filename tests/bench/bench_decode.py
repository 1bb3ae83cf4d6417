"""Decode against transformers' generate: one thread, one model, the two sides in turns.

Run as a script: `python -m tests.bench.bench_decode`. Prints a table, then one
line of JSON. KV is random: what is timed depends on its length only. Times are medians of
single tokens, in CPU seconds of the one thread, which on an idle machine are wall seconds; the
ratio compares medians of the same run, so that what else the machine does slows both.
"""

import argparse
import itertools
import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence

import torch
from transformers import AutoModelForCausalLM, DynamicCache, PreTrainedModel

from common.messages import Sampling
from common.pages import PAGE, Span
from common.tensor.kv_cache import KvCache
from common.tensor.models import Model, load
from compose.model_cache import DEFAULT_MODEL, ModelCache, default_directory
from services.decode_worker.engine import ModelEngine
from services.decode_worker.request import Entry

ROUNDS, TOKENS = 4, 8
CASES = (
    ("float32", 512, 1, 1.0),
    ("float32", 8000, 1, 0.8),
    ("bfloat16", 512, 1, 0.9),
    ("bfloat16", 8000, 1, 0.4),
)
BATCH = 8
BATCH_GAIN = 3.0


class Marks:
    """Takes the time of every token that `generate` gives out."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def put(self, _ids: torch.Tensor) -> None:
        self.times.append(time.thread_time())

    def end(self) -> None:
        pass


def ours(model: Model, context: int, size: int) -> Callable[[], list[float]]:
    """Seconds of each of a round's decode steps of `size` sequences."""
    slots = -(-(context + TOKENS) // PAGE) * PAGE
    cache = KvCache(model.layout, size * slots // PAGE)
    cache.keys.normal_()
    cache.values.normal_()
    engine = ModelEngine(model, cache)
    spans = [[Span(i * slots, (i + 1) * slots)] for i in range(size)]
    greedy = Sampling(temperature=0)

    def run() -> list[float]:
        last, marks = [5] * size, [time.thread_time()]
        for position in range(context, context + TOKENS):
            batch = [Entry(last[i], position, spans[i], greedy) for i in range(size)]
            last = [sampled.id for sampled in engine.step(batch)]
            marks.append(time.thread_time())
        return intervals(marks)

    return run


def theirs(stock: PreTrainedModel, model: Model, context: int) -> Callable[[], list[float]]:
    """Seconds of each token that `generate` adds to `context` tokens."""
    layout = model.layout
    shape = (1, layout.num_kv_heads, context, layout.head_dim)
    dtype = getattr(torch, layout.dtype)
    ids = torch.full((1, context + 1), 5)

    def run() -> list[float]:
        cache, marks = DynamicCache(), Marks()
        for layer in range(layout.num_layers):
            cache.update(torch.randn(shape, dtype=dtype), torch.randn(shape, dtype=dtype), layer)
        stock.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            past_key_values=cache,
            max_new_tokens=TOKENS,
            min_new_tokens=TOKENS,
            do_sample=False,
            streamer=marks,
        )
        # the first mark is the prompt, the second includes the set-up
        return intervals(marks.times[1:])

    return run


def intervals(marks: Sequence[float]) -> list[float]:
    return [after - before for before, after in itertools.pairwise(marks)]


def medians(*sides: Callable[[], list[float]]) -> list[float]:
    """Median milliseconds of each side, in turns after one round to warm up."""
    times: list[list[float]] = [[] for _ in sides]
    for turn in range(ROUNDS + 1):
        for side, kept in zip(sides, times, strict=True):
            measured = side()
            if turn:
                kept.extend(measured)
    return [statistics.median(kept) * 1e3 for kept in times]


def measure(path: str) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = []
    for dtype in ("float32", "bfloat16"):
        model = load(path, dtype)
        stock = AutoModelForCausalLM.from_pretrained(path, dtype=getattr(torch, dtype))
        for name, context, size, limit in CASES:
            if name != dtype:
                continue
            own, other = medians(ours(model, context, size), theirs(stock, model, context))
            rows.append(row(f"{dtype} {context}", own, other, own / other, limit))
        one, many = medians(ours(model, 512, 1), ours(model, 512, BATCH))
        gain = BATCH * one / many
        rows.append(row(f"{dtype} batch {BATCH} / 1", many, one, 1 / gain, 1 / BATCH_GAIN))
    return rows


def row(case: str, own: float, other: float, ratio: float, limit: float) -> dict[str, object]:
    return {
        "case": case,
        "ms": round(own, 1),
        "against_ms": round(other, 1),
        "ratio": round(ratio, 3),
        "limit": round(limit, 3),
        "met": ratio <= limit,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default=DEFAULT_MODEL, help="a Hugging Face directory")
    torch.set_num_threads(1)
    models = ModelCache(default_directory(), lambda _: None)
    rows = measure(str(models.resolve(parser.parse_args().model)))
    out = sys.stdout
    out.write(f"{'case':22}{'ms':>9}{'against':>9}{'ratio':>8}{'limit':>8}\n")
    for r in rows:
        out.write(f"{r['case']:22}{r['ms']:>9}{r['against_ms']:>9}{r['ratio']:>8}{r['limit']:>8}\n")
    out.write(json.dumps(rows) + "\n")
    return 0 if all(r["met"] for r in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
