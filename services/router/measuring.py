"""How long chunks took their groups, out of what every member says of its own part. Pure.

The seconds of a chunk are those for which its group was occupied by it: from the moment when the
last member had come to it until the slowest was done. A member's own seconds (compute, waiting
for blocks, waiting for history) begin when that member comes; less what it waited for the others
to come (`gather`), they begin for all members at the same moment, and the largest is the group's.
Waiting inside the ring belongs to it: who waits there is occupied too.

Only what all members have computed counts: an aborted chunk lacks somebody's word for ever.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from common.latency import LatencyModel, Sample
from common.messages import Chunk, ChunkDone
from common.pages import Owner
from services.router.pool import Task

MAX_OPEN = 1024
"""Chunks under way that are waited for; older ones are given up."""
UNEVEN = 2.0
"""Times the work of its group's typical member above which one member has held the others up."""


@dataclass(frozen=True, slots=True)
class Measured:
    """A computed chunk.

    Args:
        owner: the attempt that it belongs to.
        predicted: seconds, by the model in force when it was planned.
        computes: seconds in which each member itself computed.
    """

    owner: Owner
    sample: Sample
    predicted: float
    computes: Mapping[str, float]

    @property
    def ratio(self) -> float:
        """Measured over predicted seconds."""
        return self.sample.seconds / self.predicted

    @property
    def is_even(self) -> bool:
        """Whether it took as long as such a chunk does, and not as its slowest member does."""
        computes = sorted(self.computes.values())
        return computes[-1] <= UNEVEN * computes[(len(computes) - 1) // 2]

    def own_ratio(self, name: str, model: LatencyModel) -> float:
        """Measured over the model's seconds, had all members been as slow as this one."""
        slowest = max(self.computes.values())
        share = self.computes[name] / slowest if slowest > 0 else 1.0
        return share * model.ratio(self.sample)


@dataclass(slots=True)
class _Open:
    task: Task
    chunk: Chunk
    seconds: float = 0.0
    computes: dict[str, float] = field(default_factory=dict)


class Measuring:
    """Chunks under way, until all members have told of them."""

    def __init__(self) -> None:
        self._open: dict[int, _Open] = {}

    def expect(self, task: Task, chunk: Chunk) -> None:
        """A chunk goes out to its members."""
        self._open[task.seq] = _Open(task, chunk)
        if len(self._open) > MAX_OPEN:
            del self._open[next(iter(self._open))]

    def lacks(self, done: ChunkDone) -> bool:
        """Whether this is news: a member's part of a chunk under way, heard for the first time."""
        found = self._open.get(done.seq)
        return (
            found is not None
            and found.task.turns.get(done.name) == done.turn
            and done.name not in found.computes
        )

    def take(self, done: ChunkDone) -> Measured | None:
        """One member's part; the whole chunk once it was the last one."""
        found = self._open.get(done.seq)
        if found is None or found.task.turns.get(done.name) != done.turn:
            return None
        task, chunk = found.task, found.chunk
        own = done.compute + done.wait + done.balance - done.gather
        found.seconds = max(found.seconds, own)
        found.computes[done.name] = done.compute
        if len(found.computes) < len(task.turns):
            return None
        del self._open[done.seq]
        if found.seconds <= 0 or task.predicted <= 0:
            return None
        sample = Sample(chunk.size, chunk.history, chunk.length, found.seconds)
        return Measured(task.owner, sample, task.predicted, found.computes)
