"""Numbers and lists of numbers on a command line."""

import argparse
import math
from collections.abc import Iterator

MOST = 10_000
"""Numbers of one list."""


def whole(text: str, least: int, most: int) -> int:
    """An option's whole number.

    Raises:
        argparse.ArgumentTypeError: something else, or out of range.
    """
    try:
        number = int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number") from None
    if not least <= number <= most:
        raise argparse.ArgumentTypeError(f"must be between {least} and {most}")
    return number


def numbers(text: str) -> list[float]:
    """`2`, `1,2.5,4` or `1:4:0.5` (first, last, step): at least one number, all finite.

    Raises:
        ValueError: something else.
    """
    found: list[float] = []
    for part in text.split(","):
        found += _range(part)
        if len(found) > MOST:
            raise ValueError(f"more than {MOST} numbers")
    if not found:
        raise ValueError("no number")
    return found


def _range(part: str) -> Iterator[float]:
    first, *more = [float(number) for number in part.split(":")]
    if not all(map(math.isfinite, (first, *more))):
        raise ValueError(part)
    if not more:
        yield first
        return
    last, step = more
    if not 0 < step < 1e9 or not (last - first) / step <= MOST:
        raise ValueError(part)
    yield from (first + step * index for index in range(int((last - first) / step + 1e-9) + 1))
