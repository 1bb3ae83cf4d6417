"""Markdown out of figures."""

from collections.abc import Sequence

import numpy as np


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """The first column to the left, all others to the right."""
    rule = ["---", *("---:" for _ in head[1:])]
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, rule, *rows)) + "\n"


def spread(values: Sequence[float] | np.ndarray, digits: int = 2) -> str:
    """The mean, and the range over the seeds."""
    low, high = float(np.min(values)), float(np.max(values))
    middle = f"{float(np.mean(values)):.{digits}f}"
    return middle if len(values) == 1 else f"{middle} ({low:.{digits}f}–{high:.{digits}f})"  # noqa: RUF001
