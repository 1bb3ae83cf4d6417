"""Which chunks tell most about the latency model in little time, one after the other. Pure.

Every size gets short, middle and long prompts and one in two chunks, whose second has a history.
Lengths follow from seconds: what the model in force says, corrected by the last chunk measured.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from common.latency import LatencyModel, Sample

LONGEST = 3.0
"""Seconds of one prompt, at most."""
MARGIN = 0.8
"""Part of the budget that the steps are meant to take."""
PROMPTS = ((0.07,), (0.3,), (0.07,), (0.5, 0.5), (1.0,), (0.07,))
"""Chunks of each prompt, as shares of the longest prompt's seconds."""
MAX_FAILURES = 3
"""Prompts without a measured chunk, in a row, after which it is given up."""


class Order(NamedTuple):
    """A prompt to prefill: chunks of these lengths, all on `size` instances."""

    size: int
    lengths: tuple[int, ...]

    @property
    def length(self) -> int:
        """Tokens of the prompt."""
        return sum(self.lengths)

    @property
    def plan(self) -> str:
        """The forced plan."""
        first = [f"{self.size}:{length}" for length in self.lengths[:-1]]
        return ",".join([*first, str(self.size)])


class Calibration:
    """The prompts still to run within `budget` seconds.

    Args:
        sizes: SP sizes of the pool.
    """

    def __init__(self, budget: float, sizes: Sequence[int]) -> None:
        per_size = sum(map(sum, PROMPTS))
        longest = min(LONGEST, MARGIN * budget / (per_size * max(1, len(sizes))))
        self._budget = budget
        self._left = [
            (size, tuple(share * longest for share in shares))
            for shares in PROMPTS
            for size in sizes
        ]
        self._total = len(self._left)
        self._known: dict[int, Sample] = {}
        self._last: Sample | None = None
        self._failures = 0
        self._is_measured = False
        self.spent = 0.0
        """Seconds in which instances were busy with it."""

    @property
    def is_over(self) -> bool:
        """Whether there is nothing left to run, or no time, or no success."""
        return not self._left or self.spent >= self._budget or self._failures >= MAX_FAILURES

    @property
    def progress(self) -> str:
        """How far it has come."""
        return f"{self._total - len(self._left)} of {self._total} prompts"

    def next(self, model: LatencyModel, room: Callable[[int], int]) -> Order | None:
        """The prompt to run now; None when the rest takes too long.

        Args:
            model: in force.
            room: the most tokens that so many instances can take.
        """
        while self._left:
            size, seconds = self._left[0]
            if self.spent + sum(seconds) <= self._budget:
                ratio = self._ratio(size, model)
                return _order(size, [one / ratio for one in seconds], model, room(size))
            self._left.pop(0)
        return None

    def take(self, sample: Sample) -> None:
        """A chunk of the prompt that runs was measured."""
        self._known[sample.size] = self._last = sample
        self._is_measured = True

    def over(self, seconds: float, *, is_interrupted: bool) -> None:
        """The prompt is no longer running; one that was interrupted comes again."""
        self.spent += seconds
        if not is_interrupted:
            self._left.pop(0)
            self._failures = 0 if self._is_measured else self._failures + 1
        self._is_measured = False

    def skip(self) -> None:
        """There is no room for the next prompt."""
        self._left.pop(0)

    def _ratio(self, size: int, model: LatencyModel) -> float:
        known = self._known.get(size, self._last)
        return 1.0 if known is None else model.ratio(known)


def _order(size: int, seconds: Sequence[float], model: LatencyModel, most: int) -> Order:
    """Chunks that take so long by the model, of at most `most` tokens together."""
    history, lengths, least = 0, [], 2 * size
    for index, share in enumerate(seconds):
        room = (most - history) // (len(seconds) - index)
        lengths.append(max(least, min(room, model.solve(size, history, share))))
        history += lengths[-1]
    return Order(size, tuple(lengths))
