"""Figures for a report: lines over a rate, cumulative distributions, grouped bars.

Several panels stand side by side under one legend. A policy has one colour and one marker in all
figures; the colours are those of Okabe and Ito, which colour-blind readers tell apart. The same
figures give the same bytes: no date, ids from a fixed salt, and no state of pyplot or of the user's
matplotlibrc. Text stays text, so an SVG is small and its differences can be read.
"""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from common.errors import ConfigError

if TYPE_CHECKING:  # matplotlib is optional and slow to import: only who draws pays for it
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

WIDTH = 8.6
"""Inches of 72 points: what fits a README without being scaled."""
HEIGHT = 3.1
MAX_POINTS = 120
"""Of a cumulative distribution; more cannot be seen."""

_RULES = {
    "svg.hashsalt": "tetris",
    "svg.fonttype": "none",
    "font.sans-serif": ["DejaVu Sans", "sans-serif"],  # the first, for its widths, is matplotlib's
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.labelsize": 9,
    "axes.edgecolor": "#666666",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "grid.color": "#dddddd",
    "grid.linewidth": 0.6,
    "xtick.color": "#333333",
    "ytick.color": "#333333",
    "xtick.minor.visible": False,
    "ytick.minor.visible": False,
    "lines.linewidth": 1.6,
    "lines.markersize": 5.5,
    "lines.markeredgecolor": "white",
    "lines.markeredgewidth": 0.6,
    "figure.constrained_layout.wspace": 0.05,
    "legend.frameon": False,
    "legend.columnspacing": 1.6,
    "legend.handlelength": 2.2,
}


class Series(NamedTuple):
    """One policy's line, or its bars."""

    policy: str
    x: Sequence[float]
    """Of bars: which group, from 0."""
    y: Sequence[float]
    low: Sequence[float] = ()
    """The least over all seeds, for every point; with `high` a band, or a bar's whisker."""
    high: Sequence[float] = ()


class Panel(NamedTuple):
    """One pair of axes."""

    title: str
    x_label: str
    y_label: str
    series: Sequence[Series]
    log_x: bool = False
    log_y: bool = False


class Look(NamedTuple):
    """How a policy is drawn and called everywhere."""

    label: str
    colour: str
    marker: str


LOOKS = {
    "cdsp": Look("CDSP", "#0072B2", "o"),
    "cdsp-priced": Look("CDSP, priced", "#CC79A7", "D"),
    "single-chunk": Look("Single chunk", "#009E73", "^"),
    "loongserve": Look("LoongServe", "#D55E00", "v"),
    "fixed-sp:8": Look("Fixed SP 8", "#E69F00", "s"),
    "fixed-sp:16": Look("Fixed SP 16", "#777777", "X"),
    "fixed-sp:4": Look("Fixed SP 4", "#56B4E9", "P"),
    "fixed-sp:2": Look("Fixed SP 2", "#882255", "h"),
}
_SPARE = (
    ("#999933", "<"),
    ("#AA99DD", ">"),
    ("#000000", "p"),
    ("#BBBBBB", "d"),
)
"""For other policies, in the order in which they come."""


def cumulative(policy: str, samples: Sequence[float]) -> Series:
    """The share of samples that are at most as large, from 0 to 1; at least one sample."""
    ordered = sorted(samples)
    last = len(ordered) - 1
    ranks = sorted({round(last * i / (MAX_POINTS - 1)) for i in range(MAX_POINTS)})
    x = [ordered[0], *(ordered[rank] for rank in ranks)]
    return Series(policy, x, [0.0, *((rank + 1) / len(ordered) for rank in ranks)])


def draw_lines(path: Path, panels: Sequence[Panel]) -> None:
    """A line with markers per policy, and a band where its series has `low` and `high`.

    Args:
        path: an `.svg` (or `.png`) to write.
        panels: left to right.

    Raises:
        ConfigError: matplotlib is not installed.
        ValueError: a series whose numbers do not go together.
    """

    def draw(axes: "Axes", panel: Panel, looks: dict[str, Look]) -> None:
        for rank, series in _from_behind(panel):
            look = looks[series.policy]
            axes.plot(
                series.x, series.y, color=look.colour, marker=look.marker, label=look.label,
                zorder=3 + rank,
            )  # fmt: skip
            if series.low:
                axes.fill_between(
                    series.x, series.low, series.high, color=look.colour, alpha=0.16, linewidth=0
                )
        _scale(axes, panel)

    _draw(path, panels, draw)


def draw_cdfs(path: Path, panels: Sequence[Panel]) -> None:
    """Curves from 0 to 1, of series that `cumulative` makes; errors as those of `draw_lines`."""

    def draw(axes: "Axes", panel: Panel, looks: dict[str, Look]) -> None:
        for rank, series in _from_behind(panel):
            look = looks[series.policy]
            axes.plot(
                series.x, series.y, color=look.colour, marker=look.marker, label=look.label,
                markevery=(0.05 + 0.02 * rank, 0.2), zorder=3 + rank,
            )  # fmt: skip
        _scale(axes, panel)
        axes.set_ylim(0, 1.02)

    _draw(path, panels, draw)


def draw_bars(path: Path, groups: Sequence[str], panels: Sequence[Panel]) -> None:
    """Groups of bars with whiskers, a bar per policy; errors as those of `draw_lines`.

    Args:
        path: an `.svg` (or `.png`) to write.
        groups: what stands below them.
        panels: left to right; the x of their series are positions in `groups`.
    """

    def draw(axes: "Axes", panel: Panel, looks: dict[str, Look]) -> None:
        width = 0.8 / len(panel.series)
        for index, series in enumerate(panel.series):
            look = looks[series.policy]
            shift = (index - (len(panel.series) - 1) / 2) * width
            axes.bar(
                [x + shift for x in series.x], series.y, width, color=look.colour,
                label=look.label, yerr=_whiskers(series), edgecolor="white", linewidth=0.6,
                error_kw={"elinewidth": 0.9, "capsize": 2, "ecolor": "#222222"},
            )  # fmt: skip
        _scale(axes, panel)
        axes.set_xticks(range(len(groups)), groups)
        axes.tick_params(axis="x", length=0)

    _draw(path, panels, draw)


def _draw(
    path: Path,
    panels: Sequence[Panel],
    draw: Callable[["Axes", Panel, dict[str, Look]], None],
) -> None:
    for panel in panels:
        _check(panel)
    try:
        from matplotlib import style
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ConfigError("drawing needs matplotlib: pip install 'tetris-serve[paper]'") from error
    looks = _looks(series.policy for panel in panels for series in panel.series)
    with style.context(["default", _RULES]):
        figure = Figure(figsize=(WIDTH, HEIGHT), layout="constrained")
        grid = figure.subplots(1, len(panels), squeeze=False)
        for axes, panel in zip(grid[0], panels, strict=True):
            draw(axes, panel, looks)
            axes.set(title=panel.title, xlabel=panel.x_label, ylabel=panel.y_label)
        _add_legend(figure, looks)
        undated = {"Date": None, "Creator": None} if path.suffix == ".svg" else {}
        figure.savefig(path, dpi=150, metadata=undated)


def _check(panel: Panel) -> None:
    if not panel.series:
        raise ValueError(f"'{panel.title}' has nothing to draw")
    for series in panel.series:
        sizes = {len(series.y), len(series.low or series.y), len(series.high or series.y)}
        if sizes != {len(series.x)} or bool(series.low) != bool(series.high):
            raise ValueError(f"'{panel.title}': numbers of {series.policy} do not go together")


def _looks(policies: Iterable[str]) -> dict[str, Look]:
    """Known policies first, in the order of LOOKS, so that all legends read alike."""
    present = dict.fromkeys(policies)
    known = {policy: look for policy, look in LOOKS.items() if policy in present}
    others = [policy for policy in present if policy not in LOOKS]
    if len(others) > len(_SPARE):
        raise ValueError(f"no more than {len(_SPARE)} policies beside {', '.join(LOOKS)}")
    spare = zip(others, _SPARE, strict=False)
    return known | {policy: Look(policy, *rest) for policy, rest in spare}


def _from_behind(panel: Panel) -> list[tuple[int, Series]]:
    """The first series is drawn last, above all others."""
    ranks = range(len(panel.series) - 1, -1, -1)
    return list(zip(ranks, panel.series, strict=True))


def _whiskers(series: Series) -> list[list[float]] | None:
    if not series.low:
        return None
    down = [y - low for y, low in zip(series.y, series.low, strict=True)]
    return [down, [high - y for y, high in zip(series.y, series.high, strict=True)]]


def _scale(axes: "Axes", panel: Panel) -> None:
    if panel.log_x:
        axes.set_xscale("log")
        axes.grid(visible=True, axis="x")
    if panel.log_y:
        axes.set_yscale("log")
    else:
        axes.set_ylim(bottom=0)
    _label(axes.xaxis, panel.log_x)
    _label(axes.yaxis, panel.log_y)


def _label(axis: "Axis", log: bool) -> None:
    """With the shortest plain numbers: 100 rather than a power, 2.5 rather than 2.50."""
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

    if log:
        low, high = sorted(axis.get_view_interval())
        axis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 100 * low else (1,)))
        axis.set_minor_formatter(NullFormatter())
    else:
        axis.set_major_locator(MaxNLocator(nbins=7, steps=[1, 2, 5, 10]))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def _add_legend(figure: "Figure", looks: dict[str, Look]) -> None:
    """Above all panels, each policy once, in the order of `looks`."""
    handles: dict[str, Artist] = {}
    for axes in figure.axes:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    labels = [look.label for look in looks.values()]
    figure.legend([handles[label] for label in labels], labels, loc="outside upper center", ncols=6)
