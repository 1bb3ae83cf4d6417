"""Where the time to a request's first and second token went; pure.

Both are partitions of an interval by moments on the critical path, told by the clocks of at least
three processes. Moments are moved so that none is before the one that precedes it nor outside of
the interval: the parts then add up to exactly what was measured, whatever the clocks say.

A moment that a later attempt tells lies behind all that the failed ones took, which therefore
counts as `admission`: the router had not yet got what it could serve.
"""

from dataclasses import dataclass
from typing import Literal, get_args

from common.messages import ChunkTimes, Joining, Times

First = Literal["tokenize", "admission", "plan", "queue", "balance", "prefill", "deliver"]
Second = Literal["transfer", "admit", "step"]
Part = First | Second
FIRST: tuple[First, ...] = get_args(First)
SECOND: tuple[Second, ...] = get_args(Second)
SKEW = 0.005
"""Seconds by which a moment may be moved before the clocks count as wrong."""


@dataclass(slots=True)
class Parts:
    """Seconds of each part of an interval, which add up to it."""

    seconds: dict[Part, float]
    moved: float = 0.0
    """The most by which a moment had to be moved."""

    @property
    def skewed(self) -> bool:
        """Whether the clocks contradict each other."""
        return self.moved > SKEW


class Walk:
    """Goes from moment to moment of an interval and never back."""

    def __init__(self, parts: tuple[Part, ...], start: float, stop: float) -> None:
        self.parts = Parts(dict.fromkeys(parts, 0.0))
        self._start = start
        self._length = stop - start
        self._at = 0.0

    def to(self, moment: float, part: Part) -> float:
        """What passed up to this moment belongs to `part`; the seconds of it."""
        wanted = moment - self._start
        reached = min(max(wanted, self._at), self._length)
        self.parts.moved = max(self.parts.moved, abs(reached - wanted))
        return self._add(reached, part)

    def end(self, part: Part) -> Parts:
        """The rest of the interval belongs to `part`."""
        self._add(self._length, part)
        return self.parts

    def is_past(self, moment: float) -> bool:
        """Whether the walk has already come to this moment."""
        return moment - self._start <= self._at

    def split(self, whole: Part, part: Part, seconds: float) -> None:
        """So much of what was counted as `whole` is `part`."""
        self.parts.seconds[whole] -= seconds
        self.parts.seconds[part] += seconds

    def _add(self, reached: float, part: Part) -> float:
        passed = reached - self._at
        self.parts.seconds[part] += passed
        self._at = reached
        return passed


def of_first(arrived: float, ready: float, times: Times, came: float) -> Parts:
    """The parts of a TTFT: from `arrived` until the first token `came`.

    Args:
        arrived: when the gateway got the request; all moments are seconds of the wall clock.
        ready: when it had the prompt's ids.
        times: what the prefill instance with the last prompt token tells.
        came: when it got the first token, not before `arrived`.
    """
    walk = Walk(FIRST, arrived, came)
    walk.to(ready, "tokenize")
    walk.to(times.received, "admission")
    walk.to(times.planned, "queue")
    if times.chunks:
        walk.to(times.chunks[0].arrived, "plan")
    for chunk in times.chunks:
        _chunk(walk, chunk)
    walk.to(times.sampled, "prefill")
    return walk.end("deliver")


def of_second(sampled: float, joining: Joining, came: float) -> Parts:
    """The parts from when token 0 was sampled until token 1 `came`."""
    walk = Walk(SECOND, sampled, max(came, sampled))
    walk.to(joining.committed, "transfer")
    walk.to(joining.begun, "admit")
    parts = walk.end("step")
    parts.moved = max(parts.moved, sampled - came)
    return parts


def _chunk(walk: Walk, chunk: ChunkTimes) -> None:
    # Most chunks come while the one before is computed, which is no contradiction.
    if not walk.is_past(chunk.arrived):
        walk.to(chunk.arrived, "plan")
    walk.to(chunk.begun, "queue")
    walk.to(chunk.gathered, "queue")
    computed = walk.to(chunk.ended, "prefill")
    walk.split("prefill", "balance", min(chunk.balance, computed))
