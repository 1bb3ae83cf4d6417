"""Takes from a bulk link exactly the message that is asked for.

Peers run ahead of each other, so what arrives early waits in a stash, bounded in messages and
bytes. Blocks flow only between members that stand in the same chunk, since each chunk starts
with a barrier: a block of another chunk is stale and dropped. Only `RingReady` may be early by
whole chunks; of attempts that ended early some stay behind until newer ones push them out. Used
by the engine thread alone.
"""

import time
from collections.abc import Iterable
from typing import NamedTuple

from common.errors import LinkTimeout
from common.links.zmq import SLICE, ZmqLink
from common.messages import BalanceBlock, LinkMessage, RingBlock, RingReady

MAX_MESSAGES = 1024
MAX_BYTES = 1 << 30
"""Beyond these the oldest message of the stash is dropped."""


class Key(NamedTuple):
    """What tells a link message from all others: who, for which chunk, which part."""

    kind: type[LinkMessage]
    request: str
    attempt: int
    chunk: int
    rank: int
    incarnation: int
    layer: int = 0
    step: int = 0


class Mailbox:
    """One link, the messages that came too early, and the seconds spent waiting."""

    def __init__(self, link: ZmqLink) -> None:
        self.link = link
        self.dropped = 0
        """Messages dropped because they were stale or too many."""
        self.waited = 0.0
        """Seconds spent in `take` since `begin`."""
        self._chunk: tuple[str, int, int] | None = None
        self._stash: dict[Key, list[memoryview]] = {}
        self._bytes = 0

    def begin(self, request: str, attempt: int, chunk: int) -> None:
        """From now on blocks of this chunk are wanted, and those of others are stale."""
        self._chunk = (request, attempt, chunk)
        self.waited = 0.0
        for key in [key for key in self._stash if self._is_stale(key)]:
            self._discard(key)

    def take(self, wanted: Key, timeout: float) -> list[memoryview]:
        """The frames of one message, waiting at most `timeout` seconds for it.

        Raises:
            LinkTimeout: it did not come in time.
        """
        frames = self._pop(wanted)
        if frames is not None:
            return frames
        started = time.perf_counter()
        try:
            return self._await(wanted, started + timeout)
        finally:
            self.waited += time.perf_counter() - started

    def _await(self, wanted: Key, deadline: float) -> list[memoryview]:
        while (left := deadline - time.perf_counter()) > 0:
            # A member that leaves will say so here: this is where an abort raises, both one
            # that arrives as a message and one that was asked for since the last slice.
            arrived = self.link.receive(min(left, SLICE))
            if arrived is None:
                continue
            key = key_of(arrived[0])
            if key == wanted:
                return arrived[1]
            self._keep(key, arrived[1])
        raise LinkTimeout(
            f"{wanted.kind.__name__} of rank {wanted.rank}, layer {wanted.layer}, step"
            f" {wanted.step} of {wanted.request} chunk {wanted.chunk} did not come"
        )

    def _keep(self, key: Key | None, frames: list[memoryview]) -> None:
        if key is None or self._is_stale(key) or key in self._stash:
            self.dropped += 1
            return
        self._stash[key] = frames
        self._bytes += _size(frames)
        while len(self._stash) > MAX_MESSAGES or self._bytes > MAX_BYTES:
            self._discard(next(iter(self._stash)))

    def _is_stale(self, key: Key) -> bool:
        return key.kind is not RingReady and key[1:4] != self._chunk

    def _discard(self, key: Key) -> None:
        self._pop(key)
        self.dropped += 1

    def _pop(self, key: Key) -> list[memoryview] | None:
        frames = self._stash.pop(key, None)
        self._bytes -= _size(frames or ())
        return frames


def _size(frames: Iterable[memoryview]) -> int:
    return sum(frame.nbytes for frame in frames)


def key_of(message: LinkMessage) -> Key | None:
    """The key of a message between prefill members, None for any other."""
    m = message
    match m:
        case RingReady():
            return Key(RingReady, m.request, m.attempt, m.chunk, m.rank, m.incarnation)
        case RingBlock():
            whose = (m.request, m.attempt, m.chunk, m.origin, m.incarnation)
            return Key(RingBlock, *whose, m.layer, m.step)
        case BalanceBlock():
            whose = (m.request, m.attempt, m.chunk, m.origin, m.incarnation)
            return Key(BalanceBlock, *whose, m.layer)
        case _:
            return None
