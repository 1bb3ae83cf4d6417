"""Queuing delays as people write them: `0*8,0.31*8`, or a file with one number per line."""

import os
from collections.abc import Iterable
from pathlib import Path

from common.errors import ConfigError

HELP = (
    "seconds until each prefill instance is free, in order: a comma list, where 0.31*8 stands for "
    "eight times 0.31, or a file with one such entry per line (# begins a comment); a single "
    "number holds for all"
)
MOST = 1e6
"""Seconds."""


def delays_of(text: str, count: int) -> tuple[float, ...]:
    """The delay of each of `count` instances.

    Raises:
        ConfigError: naming the line or entry that is wrong, or how many there are.
    """
    is_file = os.path.isfile(text)
    entries = _lines(text) if is_file else _entries(text)
    parts = [_part(entry, place, is_file=is_file) for place, entry in entries]
    if len(parts) == 1 and parts[0][1] is None:
        return (parts[0][0],) * count
    total = sum(times or 1 for _, times in parts)
    if total != count:
        raise ConfigError(f"--delays: {total} numbers for {count} prefill instances")
    return tuple(value for value, times in parts for _ in range(times or 1))


def _entries(text: str) -> Iterable[tuple[str, str]]:
    return [(f"entry {index}", part.strip()) for index, part in enumerate(text.split(","), 1)]


def _lines(path: str) -> Iterable[tuple[str, str]]:
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise ConfigError(f"--delays: {path}: {error}") from None
    texts = [(index, line.partition("#")[0].strip()) for index, line in enumerate(lines, 1)]
    return [(f"{path}: line {index}", text) for index, text in texts if text]


def _part(entry: str, place: str, *, is_file: bool) -> tuple[float, int | None]:
    """Seconds, and how many instances they are for where that is said."""
    value, star, times = entry.partition("*")
    try:
        seconds = float(value)
        number = int(times) if star else None
    except ValueError:
        seconds, number = -1.0, None
    if not 0 <= seconds <= MOST or (number is not None and number < 1):
        hint = "" if is_file else "; nor is there such a file"
        raise ConfigError(
            f"--delays: {place}: {entry!r} is neither seconds (0 to {MOST:.0f}) nor "
            f"seconds*count{hint}"
        )
    return seconds, number
