"""Lists of numbers on a command line."""

from collections.abc import Iterator


def numbers(text: str) -> Iterator[float]:
    """`2`, `1,2.5,4` or `1:4:0.5` (first, last, step).

    Raises:
        ValueError: something else.
    """
    for part in text.split(","):
        first, *more = [float(number) for number in part.split(":")]
        if not more:
            yield first
            continue
        last, step = more
        if not 0 < step < 1e9 or not (last - first) / step <= 10_000:
            raise ValueError(part)
        yield from (first + step * index for index in range(int((last - first) / step + 1e-9) + 1))
