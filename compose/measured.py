"""Measured chunks in a CSV file: one a line, or a table of sizes and lengths.

    size,history,length,seconds          SP,4k,8k
    1,0,4096,0.28                        1,0.28,0.57
    2,0,4096,0.16                        2,0.16,

Whole numbers may end in k, which is 1,024. A table has no history; its empty cells were not
measured. Blank lines and lines that begin with # say nothing.
"""

import csv
import re
from collections.abc import Iterator
from pathlib import Path

from common.errors import ConfigError
from common.latency import Sample

COLUMNS = Sample._fields
Line = tuple[int, list[str]]
_WHOLE = re.compile(r"(\d{1,9})(k?)", re.IGNORECASE)
LARGEST = 2**31 - 1


def read(path: Path) -> list[Sample]:
    """The samples of a file, in its order.

    Raises:
        ConfigError: the file cannot be read, or what is wrong in which line.
    """
    lines = _lines(path)
    if not lines:
        raise ConfigError(f"{path}: nothing is in it; the first line names the columns")
    (number, head), *rows = lines
    named = [name.lower() for name in head]
    if named[0] == "sp":
        samples = list(_table(path, number, head, rows))
    elif sorted(named) == sorted(COLUMNS):
        samples = [_sample(path, at, named, cells) for at, cells in rows]
    else:
        raise ConfigError(
            f"{path}:{number}: the columns are neither {','.join(COLUMNS)} nor SP and lengths"
        )
    if not samples:
        raise ConfigError(f"{path}: no measurement is in it")
    return samples


def _lines(path: Path) -> list[Line]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: {error}") from None
    lines = []
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip() and not line.lstrip().startswith("#"):
            cells = next(csv.reader([line]))
            lines.append((number, [cell.strip() for cell in cells]))
    return lines


def _sample(path: Path, number: int, named: list[str], cells: list[str]) -> Sample:
    if len(cells) != len(named):
        raise ConfigError(f"{path}:{number}: {len(cells)} cells under {len(named)} columns")
    row = dict(zip(named, cells, strict=True))
    where = f"{path}:{number}"
    return Sample(
        size=_size(where, row["size"]),
        history=_whole(where, "history", row["history"], least=0),
        length=_whole(where, "length", row["length"], least=1),
        seconds=_seconds(where, row["seconds"]),
    )


def _table(path: Path, number: int, head: list[str], rows: list[Line]) -> Iterator[Sample]:
    lengths = [_whole(f"{path}:{number}", "length", cell, least=1) for cell in head[1:]]
    for at, (first, *cells) in rows:
        where = f"{path}:{at}"
        if len(cells) > len(lengths):
            raise ConfigError(f"{where}: {len(cells)} cells under {len(lengths)} lengths")
        size = _size(where, first)
        for length, cell in zip(lengths, cells, strict=False):
            if cell:
                yield Sample(size, 0, length, _seconds(where, cell))


def _size(where: str, text: str) -> int:
    size = _whole(where, "size", text, least=1)
    if size > 1024:
        raise ConfigError(f"{where}: an SP size is at most 1024, not {size}")
    return size


def _whole(where: str, what: str, text: str, least: int) -> int:
    found = _WHOLE.fullmatch(text)
    value = int(found[1]) * (1024 if found[2] else 1) if found else -1
    if not least <= value <= LARGEST:
        raise ConfigError(f"{where}: {what} must be a whole number >= {least}, not {text!r}")
    return value


def _seconds(where: str, text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < 1e9:
        raise ConfigError(f"{where}: seconds must be a number > 0, not {text!r}")
    return seconds
