import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import pytest

from common.errors import ConfigError
from compose.lab.plots import (
    LOOKS,
    MAX_POINTS,
    Panel,
    Series,
    cumulative,
    draw_bars,
    draw_cdfs,
    draw_lines,
)

RATES = [1.5, 2.0, 2.5, 3.0]
WORKLOADS = ["Short", "Medium", "Long"]


def lines(path: Path) -> None:
    tetris = Series("cdsp", RATES, [1, 1.2, 2, 4], [0.9, 1.1, 1.5, 3], [1.2, 1.3, 2.5, 9])
    fixed = Series("fixed-sp:8", RATES, [1.5, 3, 30, 290])
    panels = [Panel(f"P{it}", "requests/s", "TTFT (s)", [tetris, fixed]) for it in (50, 99)]
    draw_lines(path, [panels[0], panels[1]._replace(log_y=True)])


def cdfs(path: Path) -> None:
    series = [
        cumulative("cdsp", [it / 10 for it in range(1, 999)]),
        cumulative("loongserve", [3, 1, 2]),
    ]
    draw_cdfs(path, [Panel("Short", "TTFT (s)", "share of requests", series, log_x=True)])


def bars(path: Path) -> None:
    series = [
        Series("cdsp", [0, 1, 2], [3, 2, 1], [2.5, 1.5, 0.5], [3.5, 2.5, 1.5]),
        Series("fixed-sp:16", [0, 2], [2, 0.5]),
    ]
    draw_bars(path, WORKLOADS, [Panel("Maximum load", "", "requests/s", series)])


every_kind = pytest.mark.parametrize("draw", [lines, cdfs, bars], ids=lambda it: it.__name__)


def texts(path: Path) -> list[str]:
    elements = ElementTree.parse(path).getroot().iter("{http://www.w3.org/2000/svg}text")
    return ["".join(element.itertext()) for element in elements]


@every_kind
def test_the_same_figures_give_the_same_bytes(
    draw: Callable[[Path], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw(tmp_path / "one.svg")
    import matplotlib

    with matplotlib.rc_context({"font.size": 30, "svg.hashsalt": "mine", "axes.grid": False}):
        draw(tmp_path / "other.svg")
    written = (tmp_path / "one.svg").read_bytes()
    assert written == (tmp_path / "other.svg").read_bytes()
    assert b"<dc:date>" not in written
    assert len(written) < 60_000


def test_panels_share_one_legend_and_their_text_stays_text(tmp_path: Path) -> None:
    lines(tmp_path / "lines.svg")
    found = texts(tmp_path / "lines.svg")
    for label in ("CDSP", "Fixed SP 8", "P50", "P99"):
        assert found.count(label) == 1
    assert found.count("requests/s") == found.count("TTFT (s)") == 2
    assert "1.5" in found
    assert "100" in found


def test_groups_of_bars_are_named(tmp_path: Path) -> None:
    bars(tmp_path / "bars.svg")
    assert set(WORKLOADS) < set(texts(tmp_path / "bars.svg"))


def test_a_policy_has_its_colour_in_every_kind_of_plot(tmp_path: Path) -> None:
    for draw in (lines, cdfs, bars):
        draw(tmp_path / "plot.svg")
        assert LOOKS["cdsp"].colour.lower() in (tmp_path / "plot.svg").read_text()


def test_no_two_policies_look_the_same() -> None:
    for field in ("label", "colour", "marker"):
        assert len({getattr(look, field) for look in LOOKS.values()}) == len(LOOKS)


def test_a_policy_without_a_look_gets_a_spare_one_and_its_own_name(tmp_path: Path) -> None:
    series = [Series(name, RATES, RATES) for name in ("rate 0.3", "cdsp")]
    draw_lines(tmp_path / "plot.svg", [Panel("", "", "", series)])
    assert [it for it in texts(tmp_path / "plot.svg") if it[0].isalpha()] == ["CDSP", "rate 0.3"]


def test_more_policies_than_can_be_told_apart_are_refused(tmp_path: Path) -> None:
    series = [Series(f"rate 0.{it}", RATES, RATES) for it in range(9)]
    with pytest.raises(ValueError, match="no more than 4 policies beside cdsp,"):
        draw_lines(tmp_path / "plot.svg", [Panel("", "", "", series)])


def test_a_png_is_written_where_one_is_asked_for(tmp_path: Path) -> None:
    lines(tmp_path / "lines.png")
    assert (tmp_path / "lines.png").read_bytes().startswith(b"\x89PNG")


def test_a_cumulative_distribution_of_few_samples_has_them_all() -> None:
    series = cumulative("cdsp", [3.0, 1.0, 2.0, 2.0])
    assert list(zip(series.x, series.y, strict=True)) == [
        (1, 0), (1, 0.25), (2, 0.5), (2, 0.75), (3, 1),
    ]  # fmt: skip


def test_one_of_many_samples_is_thinned_and_keeps_both_ends() -> None:
    series = cumulative("cdsp", range(1, 100_001))
    assert len(series.x) == MAX_POINTS + 1
    assert (series.x[0], series.y[0], series.x[-1], series.y[-1]) == (1, 0, 100_000, 1)
    assert all(y == pytest.approx(x / 100_000) for x, y in list(zip(*series[1:3], strict=True))[1:])


@pytest.mark.parametrize(
    "series",
    [
        Series("cdsp", [1, 2], [1]),
        Series("cdsp", [1, 2], [1, 2], [1], [3]),
        Series("cdsp", [1, 2], [1, 2], [1, 1]),
    ],
)
def test_numbers_that_do_not_go_together_are_refused(series: Series, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="'P50': numbers of cdsp do not go together"):
        draw_lines(tmp_path / "plot.svg", [Panel("P50", "", "", [series])])


def test_a_panel_without_series_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="'P50' has nothing to draw"):
        draw_bars(tmp_path / "plot.svg", [], [Panel("P50", "", "", [])])


@every_kind
def test_without_matplotlib_it_says_what_to_install(
    draw: Callable[[Path], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ConfigError, match=r"pip install 'tetris-serve\[paper\]'"):
        draw(tmp_path / "plot.svg")
    assert not (tmp_path / "plot.svg").exists()


def test_matplotlib_waits_for_a_drawing_and_pyplot_is_left_alone(tmp_path: Path) -> None:
    script = (
        "import sys, compose.lab.plots as plots, pathlib\n"
        "assert 'matplotlib' not in sys.modules\n"
        "series = [plots.Series('cdsp', [1, 2], [1, 2])]\n"
        "panel = plots.Panel('', '', '', series)\n"
        "plots.draw_lines(pathlib.Path(sys.argv[1]), [panel])\n"
        "assert 'matplotlib.pyplot' not in sys.modules\n"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "plot.svg")]
    subprocess.run(command, check=True, timeout=60)
