"""Takes from a bulk link exactly the message that is asked for.

Peers run ahead of each other, so what arrives early waits in a stash, bounded in messages and
bytes. Blocks flow only between members that stand in the same chunk, since each chunk starts
with a barrier: a block of another chunk is stale and dropped. Only `RingReady` may be early by
whole chunks; of attempts that ended early some stay behind until newer ones push them out. Who
waits here, to take or to send, leaves as soon as the attempt is over. Used by the engine thread
alone.
"""

import time
from collections.abc import Iterable
from contextlib import suppress
from typing import NamedTuple

from common.errors import LinkTimeout
from common.links.zmq import SLICE, ZmqLink
from common.messages import (
    BalanceBlock,
    Endpoint,
    LinkMessage,
    RingAbort,
    RingBlock,
    RingReady,
    RunChunk,
)
from common.pages import Owner
from common.wire import Frame
from services.prefill_worker.aborts import Aborts
from services.prefill_worker.plan import owner_of

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
    """One link, the messages that came too early, and the seconds spent waiting.

    Args:
        aborts: shared by all mailboxes of an engine.
    """

    def __init__(self, link: ZmqLink, aborts: Aborts) -> None:
        self.link = link
        self.dropped = 0
        """Messages dropped because they were stale or too many."""
        self.waited = 0.0
        """Seconds spent in `take` since `begin`."""
        self._aborts = aborts
        self._chunk: tuple[str, int, int] | None = None
        self._stash: dict[Key, list[memoryview]] = {}
        self._answers: dict[Key, tuple[Endpoint, LinkMessage]] = {}
        self._bytes = 0

    def begin(self, run: RunChunk) -> None:
        """From now on blocks of this chunk are wanted, and those of others are stale.

        Raises:
            Aborted: its attempt is over.
        """
        self._chunk = (*owner_of(run), run.index)
        self._answers.clear()
        self.waited = 0.0
        for key in [key for key in self._stash if self._is_stale(key)]:
            self._discard(key)
        self.check()

    def forget(self, owner: Owner) -> None:
        """Nothing of this attempt is wanted any more."""
        self._chunk = None
        for key in [key for key in self._stash if key[1:3] == owner]:
            self._pop(key)

    def check(self) -> None:
        """Go on, unless the current attempt is over.

        Raises:
            Aborted: it is.
        """
        self._aborts.check()

    def take(self, wanted: Key, timeout: float) -> list[memoryview]:
        """The frames of one message, waiting at most `timeout` seconds for it.

        Raises:
            LinkTimeout: it did not come in time.
            Aborted: the attempt is over.
        """
        frames = self._pop(wanted)
        if frames is not None:
            return frames
        started = time.perf_counter()
        try:
            return self._await(wanted, started + timeout)
        finally:
            self.waited += time.perf_counter() - started

    def send(
        self, endpoint: Endpoint, message: LinkMessage, *buffers: Frame, timeout: float
    ) -> None:
        """Post a message, waiting at most `timeout` seconds for room in the peer's queue.

        Raises:
            LinkTimeout: the peer took nothing in time.
            Aborted: the attempt is over.
        """
        self.link.send(endpoint, message, *buffers, timeout=timeout, meanwhile=self._look)

    def answer(self, known: Key, endpoint: Endpoint, message: LinkMessage) -> None:
        """Have a member whose readiness is known hear this as long as it still asks."""
        self._answers[known] = endpoint, message

    def post(self, endpoint: Endpoint, message: LinkMessage) -> None:
        """Post a message if the peer can take it now; it is not missed otherwise."""
        with suppress(LinkTimeout):
            self.link.try_send(endpoint, message)

    def _await(self, wanted: Key, deadline: float) -> list[memoryview]:
        while (left := deadline - time.perf_counter()) > 0:
            self.check()
            arrived = self.link.receive(min(left, SLICE))
            if arrived is None:
                continue
            if key_of(arrived[0]) == wanted:
                return arrived[1]
            self._keep(*arrived)
        raise LinkTimeout(
            f"{wanted.kind.__name__} of rank {wanted.rank}, layer {wanted.layer}, step"
            f" {wanted.step} of {wanted.request} chunk {wanted.chunk} did not come"
        )

    def _look(self) -> None:
        """Read what has arrived, as far as there is room, for somebody may have left."""
        while self._bytes < MAX_BYTES // 2 and (arrived := self.link.receive(0.0)) is not None:
            self._keep(*arrived)
        self.check()

    def _keep(self, message: LinkMessage, frames: list[memoryview]) -> None:
        if isinstance(message, RingAbort):
            self._aborts.note(message)
            return
        key = key_of(message)
        if isinstance(message, RingReady) and message.again and key in self._answers:
            self.post(*self._answers[key])
            return
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
    """The key of a block or of readiness, None for any other message."""
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
