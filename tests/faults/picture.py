"""A soak as an SVG: requests, faults and memory over time."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

WIDTH, HEIGHT, LEFT, TOP, GAP = 900.0, 150.0, 60.0, 30.0, 40.0
COLOURS = ("#1f77b4", "#ff7f0e", "#2ca02c", "#d62728", "#9467bd", "#8c564b", "#e377c2", "#7f7f7f")
Points = Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Panel:
    """One diagram: lines by name over the same seconds."""

    title: str
    lines: Mapping[str, Points]


def draw(panels: Sequence[Panel], faults: Points, seconds: float) -> str:
    """The picture; each fault is a thin line through all panels."""
    height = TOP + len(panels) * (HEIGHT + GAP)
    scale = WIDTH / max(seconds, 1.0)
    parts = [_fault(LEFT + at * scale, height) for at, _ in faults]
    for index, panel in enumerate(panels):
        parts += _panel(panel, TOP + index * (HEIGHT + GAP), scale)
    box = f"0 0 {LEFT + WIDTH + 150:.0f} {height:.0f}"
    style = "font-family:sans-serif;font-size:11px"
    inside = "\n".join(parts)
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="{box}" style="{style}">'
    return f'{head}\n<rect width="100%" height="100%" fill="white"/>\n{inside}\n</svg>\n'


def _fault(x: float, height: float) -> str:
    return f'<path d="M{x:.1f} {TOP} V{height - GAP:.0f}" stroke="#cccccc" stroke-width="0.7"/>'


def _panel(panel: Panel, top: float, scale: float) -> list[str]:
    peak = max((y for points in panel.lines.values() for _, y in points), default=0.0) or 1.0
    bottom = top + HEIGHT
    parts = [
        f'<path d="M{LEFT} {top} V{bottom} H{LEFT + WIDTH}" fill="none" stroke="black"/>',
        f'<text x="{LEFT}" y="{top - 6}">{escape(panel.title)}</text>',
        f'<text x="{LEFT - 6}" y="{top + 8}" text-anchor="end">{peak:.4g}</text>',
        f'<text x="{LEFT - 6}" y="{bottom}" text-anchor="end">0</text>',
    ]
    for index, (name, points) in enumerate(panel.lines.items()):
        colour = COLOURS[index % len(COLOURS)]
        path = " ".join(
            f"{LEFT + x * scale:.1f},{bottom - HEIGHT * y / peak:.1f}" for x, y in points
        )
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}"/>')
        where = f'x="{LEFT + WIDTH + 6}" y="{top + 12 * (index + 1)}"'
        parts.append(f'<text {where} fill="{colour}">{escape(name)}</text>')
    return parts
