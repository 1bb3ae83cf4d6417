"""`tetris fit`: a latency model out of measured chunks, and how well it fits each of them."""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from common.errors import ConfigError
from common.latency import LatencyModel, Sample
from compose import measured
from compose.table import table

MISUSED = 2


def main(argv: Sequence[str] | None = None) -> int:
    """Fit a file; the exit status: 2 for a wrong call or file."""
    options = _parser().parse_args(argv)
    try:
        samples = measured.read(options.file)
        model = LatencyModel.fit(samples)
        out = options.out or options.file.with_suffix(".toml")
        model.dump(out, options.comment or comment(options.file.name, samples, model))
    except (ConfigError, OSError) as error:
        sys.stderr.write(f"tetris fit: {error}\n")
        return MISUSED
    text = as_json(samples, model, out) if options.json else report(samples, model)
    sys.stdout.write(f"{text}\n" if options.json else f"{text}\nwritten: {out}\n")
    return 0


def quality(samples: Sequence[Sample], model: LatencyModel) -> tuple[float, float]:
    """The mean and the largest relative error over all samples, without signs."""
    errors = [abs(model.error(sample)) for sample in samples]
    return sum(errors) / len(errors), max(errors)


def comment(source: str, samples: Sequence[Sample], model: LatencyModel) -> str:
    """What a model's file says of itself unless told otherwise."""
    mean, worst = quality(samples, model)
    cells = f"{len(samples)} cells: mean error {mean:.2%}, worst {worst:.2%}"
    return f"Prefill seconds, fitted by relative least squares to {source}.\n{cells}."


def report(samples: Sequence[Sample], model: LatencyModel) -> str:
    """The error of every cell, sizes as rows, one table for each history; then mean and worst."""
    parts = []
    for history in sorted({sample.history for sample in samples}):
        part = [sample for sample in samples if sample.history == history]
        parts.append("\n".join(_errors(history, part, model)))
    mean, worst = quality(samples, model)
    parts.append(f"{len(samples)} cells: mean error {mean:.2%}, worst {worst:.2%}")
    return "\n\n".join(parts)


def as_json(samples: Sequence[Sample], model: LatencyModel, out: Path) -> str:
    """The same figures for programs; errors are shares, not per cent."""
    mean, worst = quality(samples, model)
    return json.dumps(
        {
            "cells": [one._asdict() | {"error": model.error(one)} for one in samples],
            "mean": mean,
            "worst": worst,
            "sizes": {size: curve._asdict() for size, curve in model.curves.items()},
            "file": str(out),
        }
    )


def _errors(history: int, samples: Sequence[Sample], model: LatencyModel) -> list[str]:
    lengths = sorted({sample.length for sample in samples})
    cells: dict[tuple[int, int], list[str]] = {}
    for sample in samples:
        # A cell that was measured more than once has more than one error.
        errors = cells.setdefault((sample.size, sample.length), [])
        errors.append(f"{100 * model.error(sample):+.1f}")
    names = [_tokens(length) for length in lengths]
    rows = [
        [str(size), *(" ".join(cells.get((size, length), [])) for length in lengths)]
        for size in sorted({sample.size for sample in samples})
    ]
    head = f"error in % after {_tokens(history)} tokens" if history else "error in %"
    return [head, *table(["SP", *names], rows, " ".join(["SP", *names]))]


def _tokens(count: int) -> str:
    return f"{count // 1024}k" if count and count % 1024 == 0 else str(count)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="tetris fit", description="Fit a latency model to measured prefill seconds."
    )
    parser.add_argument(
        "file",
        type=Path,
        metavar="FILE",
        help="CSV with size,history,length,seconds, or a table: SP,4k,8k and a row for each size",
    )
    parser.add_argument(
        "--out",
        type=Path,
        metavar="NAME.toml",
        help="the model's file, for router.latency (default: FILE with .toml at its end)",
    )
    parser.add_argument("--comment", metavar="TEXT", help="what the model's file says at its head")
    parser.add_argument("--json", action="store_true", help="every cell with its error, as JSON")
    return parser
