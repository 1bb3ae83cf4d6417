"""Runs rows on real meshes: `python -m tests.faults.suite --rows F2,F9 --repeats 3 --seed 7`.

Meshes are shared between rows: the launcher starts again what a row has killed. A row that fails
leaves a mesh that nobody trusts; the next row gets another one.
"""

import argparse
import random
import re
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

from tests.faults import report
from tests.faults.arena import Arena, arena
from tests.faults.catalogue import ROWS, Row, Shape, chosen
from tests.faults.report import Result
from tests.faults.stream import NONE
from tests.faults.trial import Trial
from tests.processes.real_mesh import ROOT

BUILD = ROOT / "build" / "faults"


class Meshes:
    """One mesh at a time, of the shape that the next row asks for."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self._shape: Shape | None = None
        self._arena: Arena | None = None

    def __enter__(self) -> "Meshes":
        return self

    def __exit__(self, *_: object) -> None:
        self.discard()

    def get(self, shape: Shape) -> Arena:
        """A whole mesh of that shape."""
        if self._arena is None or self._shape != shape or not self._arena.is_running:
            self.discard()
            made = arena(shape.prefill, shape.decode, shape.preset)
            self._arena, self._shape = self._stack.enter_context(made), shape
        return self._arena

    def discard(self) -> None:
        """End the mesh that runs."""
        self._arena = None
        try:
            self._stack.close()
        except (AssertionError, OSError) as error:
            sys.stdout.write(f"the mesh did not end well: {error}\n")


def attempt(own: Arena, row: Row, seed: int, sampling: int | None) -> Result:
    """Run one row once; afterwards the mesh is whole and holds nothing."""
    trial = Trial(own, random.Random(f"{seed} {row.name} {sampling}"), sampling)
    started, mark, why = time.monotonic(), own.mark(), ""
    try:
        try:
            row.run(trial)
        finally:
            trial.disarm()
        own.await_complete()
        own.assert_quiescent()
    except (AssertionError, OSError, KeyError) as error:
        why = _reason(error)
        _keep(own, mark, f"{row.name}-{seed}", traceback.format_exc())
    return Result(
        row=row.name,
        sampling="greedy" if sampling is None else "seeded",
        seed=seed,
        passed=not why,
        seconds=time.monotonic() - started,
        recoveries=trial.recoveries,
        difference=trial.difference,
        notes=trial.notes,
        why=why,
    )


def run(rows: Sequence[Row], repeats: int, seed: int) -> Iterator[Result]:
    """Every try of every row, by mesh."""
    tries = [(row, sampling, n) for n in range(repeats) for row in rows for sampling in row.seeds]
    with Meshes() as meshes:
        for row, sampling, n in sorted(tries, key=lambda one: ROWS.index(one[0])):
            try:
                own = meshes.get(row.shape)
            except (AssertionError, OSError) as error:
                yield Result(row.name, "-", seed + n, False, 0, [], NONE, [],
                             f"no mesh: {_reason(error)}")  # fmt: skip
                continue
            result = attempt(own, row, seed + n, sampling)
            if row.spoils or not result.passed:
                meshes.discard()
            yield result


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status 1 when any try has failed."""
    parser = argparse.ArgumentParser(description="Breaks real meshes, and compares every token.")
    parser.add_argument("--rows", default="", help="as F2,F9 (default: all)")
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args(argv)
    rows = chosen(options.rows)
    if not rows:
        parser.error(f"no such rows; there are {', '.join(row.name for row in ROWS)}")
    results: list[Result] = []
    table = ""
    sys.stdout.write(f"seed {options.seed}\n")
    for result in run(rows, options.repeats, options.seed):
        results.append(result)
        sys.stdout.write(f"{len(results):3} {_progress(result)}\n")
        sys.stdout.flush()
        table = report.write(results, BUILD)
    sys.stdout.write(f"\n{table}")
    return 0 if all(result.passed for result in results) else 1


def _progress(result: Result) -> str:
    times = " ".join(f"{seconds:.2f}" for seconds in result.recoveries)
    what = "passed" if result.passed else f"FAILED: {result.why[:300]}"
    notes = "; ".join(result.notes)
    return (
        f"{result.row:12} {result.sampling} {result.seconds:5.0f} s  {what}; "
        f"recovery {times or '-'} s; {notes}"
    )


def _reason(error: BaseException) -> str:
    text = " ".join(f"{type(error).__name__}: {error}".split())
    text = re.sub(r"^AssertionError: ", "", text)
    return text if len(text) < 1000 else f"{text[:200]} ... {text[-800:]}"


def _keep(own: Arena, mark: int, name: str, trace: str) -> None:
    """Keep what the mesh said during a try that failed."""
    place = Path(BUILD, "logs")
    place.mkdir(parents=True, exist_ok=True)
    lines = [trace, *own.mesh.lines[mark:]]
    (place / f"{name}.log").write_text("\n".join(lines), encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
