"""Aligned columns and short quantities for people at a terminal."""

from collections.abc import Sequence

GAP = "  "
WIDTH = 10
"""Characters of a full bar."""


def table(head: Sequence[str], rows: Sequence[Sequence[str]], right: str = "") -> list[str]:
    """Lines of equal columns under a head.

    Args:
        head: names of the columns; those without any cell are left out.
        rows: cells, as many as the head has names.
        right: names of the columns whose cells end at the same place, between blanks.
    """
    used = [index for index in range(len(head)) if any(row[index] for row in rows)]
    lines = [[head[i] for i in used]] + [[printable(row[i]) for i in used] for row in rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(used))]
    signs = [">" if name in right.split() else "<" for name in lines[0]]
    return [
        GAP.join(
            f"{cell:{sign}{width}}" for cell, sign, width in zip(line, signs, widths, strict=True)
        ).rstrip()
        for line in lines
    ]


def printable(text: str) -> str:
    """The text without anything that a terminal would obey; request ids come from clients."""
    return "".join(char if char.isprintable() else "?" for char in text)


def duration(seconds: float) -> str:
    """`0.2 s`, `42 s`, `12 min`, `3.5 h`."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    if seconds < 99.5:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5970 else f"{seconds / 3600:.1f} h"


def count(number: int, noun: str) -> str:
    """`1 request`, `2 requests`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def bar(used: int, total: int) -> str:
    """How full something is; a little is never shown as nothing, and full is full."""
    if not total:
        return ""
    share = min(used / total, 1.0)
    filled = int(share * WIDTH)
    if used and not filled:
        filled = 1
    return f"[{'#' * filled}{'.' * (WIDTH - filled)}] {int(100 * share):3d} %"
