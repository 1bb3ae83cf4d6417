"""Which messages of a hand-over are taken (none of an older loan), and the answer.

Pure, and used by whoever receives KV alone.
"""

from typing import NamedTuple

from common.errors import WireError
from common.messages import KvAck, KvCommit, KvLayer
from common.recent import Recent

MAX_COMMITTED = 65536
"""Transfers that are remembered as committed."""
MAX_BACKENDS = 1024


class Transfer(NamedTuple):
    """One chunk's KV of one member."""

    request: str
    attempt: int
    chunk: int
    rank: int


def ack(message: KvLayer | KvCommit, layer: int) -> KvAck:
    """The answer to a layer, or to a commit with its number of layers."""
    return KvAck(
        request=message.request,
        attempt=message.attempt,
        chunk=message.chunk,
        rank=message.rank,
        layer=layer,
        generation=message.generation,
    )


class Fence:
    """The newest loan of every backend and the transfers that are through."""

    def __init__(self) -> None:
        self._generations: dict[int, int] = {}
        self._committed: Recent[Transfer] = Recent(MAX_COMMITTED)

    def check(self, message: KvLayer | KvCommit) -> None:
        """Raise `WireError` for a message of an older loan than this backend has seen."""
        if message.backend >= MAX_BACKENDS:
            raise WireError("field", f"backend {message.backend}")
        if message.generation < self._generations.get(message.backend, 0):
            raise WireError("stale", f"generation {message.generation}")
        self._generations[message.backend] = message.generation

    def check_commit(self, message: KvCommit) -> None:
        """Raise `WireError` for a commit that is new and of an older loan.

        A repeated one may come when its backend is already lent to the next transfer.
        """
        transfer = Transfer(message.request, message.attempt, message.chunk, message.rank)
        if transfer not in self._committed:
            self.check(message)
            self._committed.add(transfer)
