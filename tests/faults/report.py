"""What a run of the suite found, as JSON and as a table to read."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from tests.faults.catalogue import ELSEWHERE, ROWS
from tests.faults.stream import NONE, Difference


@dataclass(frozen=True)
class Result:
    """One try of one row; times in seconds."""

    row: str
    sampling: str
    seed: int
    passed: bool
    seconds: float
    recoveries: list[float]
    difference: Difference
    notes: list[str]
    why: str = ""


def write(results: Sequence[Result], directory: Path) -> str:
    """Write `faults.json` and `faults.md`; returns the table."""
    directory.mkdir(parents=True, exist_ok=True)
    rows = [asdict(result) for result in results]
    (directory / "faults.json").write_text(json.dumps(rows, indent=1), encoding="utf-8")
    text = table(results)
    (directory / "faults.md").write_text(text, encoding="utf-8")
    return text


def table(results: Sequence[Result]) -> str:
    """A row of the table for each row of the suite."""
    head = "| row | fault | passed | recovery p50 | p99 | lost | duplicated | changed |"
    lines = [head, "|---|---|---|---|---|---|---|---|"]
    lines += [_line(row.name, row.title, results) for row in ROWS]
    lines = [line for line in lines if line]
    lines += ["", *(f"{name} is not run here: {why}." for name, why in ELSEWHERE.items())]
    failures = [result for result in results if not result.passed]
    if failures:
        lines += ["", "Failures:", ""]
        lines += [f"- {one.row} ({one.sampling}, seed {one.seed}): {one.why}" for one in failures]
    return "\n".join(lines) + "\n"


def _line(name: str, title: str, results: Sequence[Result]) -> str:
    own = [result for result in results if result.row == name]
    if not own:
        return ""
    times = sorted(seconds for result in own for seconds in result.recoveries)
    total = sum((result.difference for result in own), NONE)
    passed = f"{sum(result.passed for result in own)} of {len(own)}"
    return (
        f"| {name} | {title} | {passed} | {_percentile(times, 0.5)} | {_percentile(times, 0.99)} "
        f"| {total.lost} | {total.duplicated} | {total.changed} |"
    )


def _percentile(times: Sequence[float], share: float) -> str:
    if not times:
        return "-"
    return f"{times[min(len(times) - 1, int(share * len(times)))]:.2f} s"
