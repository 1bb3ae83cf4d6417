from pathlib import Path

import numpy as np
import pytest

from tests.paper.lab import Scale, crossing, geometric
from tests.paper.page import spread, table
from tests.paper.report import report


@pytest.mark.timeout(120)
def test_the_whole_report_can_be_made_small(tmp_path: Path):
    page = report(tmp_path, Scale(requests=200, seeds=1, thin=6))
    for section in (
        "Latency model", "TTFT over the rate", "Max sustainable load", "At the critical rate",
        "Regulation", "Chunking", "Beyond the paper", "Planner time",
    ):  # fmt: skip
        assert f"\n## {section}" in page
    shown = {line.split("](")[1].rstrip(")") for line in page.splitlines() if line[:2] == "!["}
    assert shown == {f"paper/{path.name}" for path in (tmp_path / "paper").glob("*.svg")}
    rows = [line for line in page.splitlines() if line.startswith("|")]
    assert len(rows) > 60
    assert "nan" not in page


def test_a_load_is_found_between_two_points_of_the_curve():
    loads, latency = [1.0, 2.0, 3.0], [1.0, 2.0, 8.0]
    assert crossing(loads, latency, 4.0) == pytest.approx(2.5)
    assert crossing(loads, latency, 2.0) == 2.0
    assert crossing(loads, latency, 9.0) == 3.0
    assert crossing(loads, latency, 0.5) == 0.0


def test_means_of_ratios_are_geometric():
    assert geometric(np.array([0.5, 2.0])) == pytest.approx(1.0)


def test_tables_are_markdown():
    assert table(["a", "b"], [["x", "1"]]) == "| a | b |\n| --- | ---: |\n| x | 1 |\n"
    assert spread([1.0, 3.0]) == "2.00 (1.00–3.00)"  # noqa: RUF001
    assert spread([1.0]) == "1.00"
