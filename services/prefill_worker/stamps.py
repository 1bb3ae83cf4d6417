"""When the chunks of one attempt came, began and ended at this member, on the wall clock.

The owner of the last prompt token tells them with token 0. It is always rank 0, whose second shard
ends every chunk, and rank 0 runs all chunks; one that it did not run would be left out.
"""

from common.clock import Clock
from common.messages import ChunkTimes, RunChunk, Times
from services.prefill_worker.hands import ChunkResult


class Stamps:
    """Of one attempt; all of them keep their order, for the clocks are compared only once."""

    def __init__(self, clock: Clock) -> None:
        self._offset = clock.wall() - clock.now()
        self._arrived: dict[int, float] = {}
        self._chunks: dict[int, ChunkTimes] = {}
        self._sampled = 0.0

    def arrive(self, index: int, now: float) -> None:
        """A chunk has come; what comes again counts once."""
        self._arrived.setdefault(index, now)

    def done(self, index: int, result: ChunkResult) -> None:
        """A chunk is computed."""
        moments = result.moments
        times = (self._arrived.get(index, moments.begun), *moments)
        arrived, begun, gathered, ended, self._sampled = (self._offset + time for time in times)
        self._chunks[index] = ChunkTimes(arrived, begun, gathered, ended, result.balance)

    def times(self, run: RunChunk) -> Times:
        """The way to token 0, which has been drawn in the chunk that was done last."""
        chunks = tuple(chunk for _, chunk in sorted(self._chunks.items()))
        return Times(run.received, run.planned, chunks, self._sampled)
