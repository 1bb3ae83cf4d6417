"""Arrivals out of public trace files: Mooncake's JSON lines, the CSV of Azure's LLM traces of 2023.

Only times and lengths are used. Times stay whole nanoseconds until the first request's is
subtracted: a float since 1970 would lose the 100 ns that Azure's have.
"""

import math
import re
from collections.abc import Iterable, Iterator
from datetime import datetime
from itertools import chain, islice
from pathlib import Path
from typing import Annotated, BinaryIO, NamedTuple

import msgspec

from loadgen.arrival import Arrival

MAX_LINE = 2**20
"""Bytes; a line of Mooncake's with a prompt of a million tokens takes about 20,000."""
MAX_TOKENS = 2**24
MAX_SPAN = 366 * 86400
"""Seconds from the first to the last request."""

_AZURE_HEADER = b"TIMESTAMP,ContextTokens,GeneratedTokens"
_AZURE_LINE = re.compile(rb"(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d)(?:\.(\d{1,9}))?,(\d{1,9}),(\d{1,9})")
_EPOCH = datetime(1970, 1, 1)
_Tokens = Annotated[int, msgspec.Meta(ge=1, le=MAX_TOKENS)]


class TraceError(Exception):
    """A file that is no trace; names file and line."""


class _Request(NamedTuple):
    time: int
    """Nanoseconds, of any origin."""
    length: int
    output: int


class _MooncakeLine(msgspec.Struct):
    timestamp: Annotated[float, msgspec.Meta(ge=0, le=1000 * MAX_SPAN)]
    """Milliseconds."""
    input_length: _Tokens
    output_length: _Tokens
    hash_ids: list[int]
    """Not used, but a file without them is another one."""


_MOONCAKE_LINE = msgspec.json.Decoder(_MooncakeLine)


def read_trace(
    path: Path,
    *,
    time_scale: float = 1.0,
    min_length: int = 1,
    max_length: int = MAX_TOKENS,
    limit: int | None = None,
) -> list[Arrival]:
    """The requests of a trace in order, the first at 0; the first line tells the format.

    Args:
        path: the file; it is read line by line.
        time_scale: what arrival times are multiplied with: 0.5 is twice the rate.
        min_length: requests with a shorter prompt are left out, and the gaps about them join.
        max_length: likewise those with a longer one.
        limit: how many requests to take; what follows is not read.

    Raises:
        TraceError: the file cannot be read, is not such a trace, or has no request that fits.
        ValueError: `time_scale` or `limit` is not above zero.
    """
    if not 0 < time_scale < math.inf:
        raise ValueError(f"time_scale must be finite and above zero, got {time_scale}")
    if limit is not None and limit < 1:
        raise ValueError(f"limit must be above zero, got {limit}")
    try:
        with path.open("rb") as file:
            fitting = (it for it in _read(path, file) if min_length <= it.length <= max_length)
            taken = list(islice(fitting, limit))
    except OSError as error:
        raise TraceError(f"cannot read {path}: {error.strerror}") from error
    if not taken:
        raise TraceError(f"{path}: no request has {min_length} to {max_length} prompt tokens")
    begin = taken[0].time
    return [Arrival((it.time - begin) / 1e9 * time_scale, it.length, it.output) for it in taken]


def _read(path: Path, file: BinaryIO) -> Iterator[_Request]:
    lines = _Lines(file)
    try:
        yield from _in_order(_parse(iter(lines)))
    except ValueError as error:
        raise TraceError(f"{path}:{lines.number}: {error}") from error


class _Lines:
    """Lines without their ends, of bounded length, and the number of the latest."""

    def __init__(self, file: BinaryIO) -> None:
        self.number = 1
        self._file = file

    def __iter__(self) -> Iterator[bytes]:
        while line := self._file.readline(MAX_LINE + 1):
            if len(line) > MAX_LINE:
                raise ValueError(f"longer than {MAX_LINE} bytes")
            yield line.rstrip(b"\r\n")
            self.number += 1


def _parse(lines: Iterator[bytes]) -> Iterator[_Request]:
    first = next(lines, None)
    if first is None:
        raise ValueError("the file is empty")
    if first.startswith(b"{"):
        return map(_mooncake, chain([first], lines))
    if first == _AZURE_HEADER:
        return map(_azure, lines)
    raise ValueError(f"neither a JSON object nor the header {_AZURE_HEADER.decode()}")


def _mooncake(line: bytes) -> _Request:
    try:
        read = _MOONCAKE_LINE.decode(line)
    except (msgspec.DecodeError, RecursionError) as error:
        raise ValueError(str(error)) from error
    return _Request(round(read.timestamp * 1e6), read.input_length, read.output_length)


def _azure(line: bytes) -> _Request:
    match = _AZURE_LINE.fullmatch(line)
    if match is None:
        raise ValueError("need YYYY-MM-DD hh:mm:ss.fraction and two numbers of tokens")
    clock, fraction, length, output = (group.decode() for group in match.groups(b""))
    seconds = (datetime.fromisoformat(clock) - _EPOCH).total_seconds()
    time = int(seconds) * 10**9 + int(fraction.ljust(9, "0"))
    return _Request(time, _tokens(length), _tokens(output))


def _tokens(text: str) -> int:
    tokens = int(text)
    if not 1 <= tokens <= MAX_TOKENS:
        raise ValueError(f"{tokens} is no number of tokens")
    return tokens


def _in_order(requests: Iterable[_Request]) -> Iterator[_Request]:
    begin = previous = None
    for request in requests:
        if begin is None or previous is None:
            begin = previous = request.time
        if request.time < previous:
            raise ValueError("comes before the request above it")
        if request.time - begin > MAX_SPAN * 10**9:
            raise ValueError("comes more than a year after the first request")
        previous = request.time
        yield request
