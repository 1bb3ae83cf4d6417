"""A plan as a drawing: instances down, time across, letters for chunks."""

import math
from collections.abc import Iterator
from string import ascii_letters

from services.router.plan import Plan

WIDTH = 64
"""Characters from now to the first token."""
MOST_ROWS = 32
"""Instances beyond which those of a node that look the same share a row."""
MOST_TICKS = 6
IDLE, BUSY = "·", "#"
LETTERS = ascii_letters[26:] + ascii_letters[:26]


def letter(chunk: int) -> str:
    """What stands for a chunk."""
    return LETTERS[chunk] if chunk < len(LETTERS) else "+"


def board(plan: Plan) -> list[str]:
    """The lines of the drawing, node by node, and the seconds below it."""
    view, until = plan.view, plan.ttft or 1.0
    nodes: dict[str, dict[str, str]] = {}
    for name, node, delay in zip(view.names, view.nodes, view.delays, strict=True):
        nodes.setdefault(node, {})[name] = _row(plan, name, delay, until)
    if len(view.names) > MOST_ROWS:
        nodes = {node: dict(_collapsed(rows)) for node, rows in nodes.items()}
    width = max(len(label) for rows in nodes.values() for label in rows)
    lines = []
    for node, rows in nodes.items():
        lines.append(node)
        lines += [f"  {label:<{width}} {row}" for label, row in rows.items()]
    margin = " " * (width + 3)
    return lines + [f"{margin}{line}".rstrip() for line in _axis(until)]


def _row(plan: Plan, name: str, delay: float, until: float) -> str:
    """One instance; what takes less than a cell gets one all the same."""
    spans = [(0.0, delay, BUSY)] if delay > 0 else []
    for index, (start, seconds) in enumerate(zip(plan.starts, plan.predicted, strict=True)):
        if name in plan.group(index):
            spans.append((start, start + seconds, letter(index)))
    row = ""
    for start, end, sign in spans:
        first = max(min(round(start / until * WIDTH), WIDTH - 1), len(row))
        last = max(min(round(end / until * WIDTH), WIDTH), first + 1)
        row = row.ljust(first, IDLE).ljust(last, sign)
    return row.ljust(WIDTH, IDLE)[:WIDTH]


def _collapsed(rows: dict[str, str]) -> Iterator[tuple[str, str]]:
    """One row for all that look the same, named after the first of them."""
    same: dict[str, list[str]] = {}
    for name, row in rows.items():
        same.setdefault(row, []).append(name)
    for row, names in same.items():
        yield names[0] if len(names) == 1 else f"{names[0]} +{len(names) - 1}", row


def _axis(until: float) -> tuple[str, str]:
    """Ticks and their seconds."""
    step = _step(until)
    marks, labels = "", ""
    for index in range(int(until / step) + 1):
        column = round(index * step / until * WIDTH)
        marks = f"{marks:<{column}}|"
        labels = f"{labels:<{column}}{index * step:g}"
    return marks, f"{labels} s"


def _step(until: float) -> float:
    """Seconds between two ticks: 1, 2 or 5 of some power of ten."""
    power = 10.0 ** math.floor(math.log10(until / MOST_TICKS))
    return next(power * digit for digit in (1, 2, 5, 10) if until / (power * digit) <= MOST_TICKS)
