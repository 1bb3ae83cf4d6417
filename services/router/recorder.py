"""What has happened, until gateways are told of it once: for eyes, nothing depends on it.

Pure; `now` is monotonic seconds. Whoever changes a book notes it here. What nobody takes is
forgotten: the oldest events first, but their numbers are used up, so that the gap shows.
"""

from collections import deque
from collections.abc import Iterable, Iterator

import msgspec

from common.events import (
    Began,
    Computed,
    Decoding,
    HandedOver,
    Happening,
    Over,
    Planned,
    PlannedChunk,
    Waits,
)
from common.messages import Cancel, ChunkDone, EndOfRequest, Events, Failed
from common.pages import Owner
from services.router.endings import How
from services.router.pool import Task
from services.router.requests import Request
from services.router.wall import Wall

MAX_KEPT = 8192
"""Events that wait to be told, at most."""
MAX_EVENTS = 1024
"""Events of one message."""
MAX_BYTES = 1 << 19
"""Bytes of all events of a message: its header may have twice as many."""


class Recorder:
    """The events of one epoch that were not told yet."""

    def __init__(self, epoch: int, wall: Wall) -> None:
        self._epoch = epoch
        self._wall = wall
        self._kept: deque[Happening] = deque(maxlen=MAX_KEPT)
        self._count = 0

    def note(self, event: Happening) -> None:
        """Something has happened."""
        self._kept.append(event)
        self._count += 1

    def take(self) -> Iterator[Events]:
        """All that was not told yet, in as few messages as it fits in."""
        kept, number = self._kept, self._count - len(self._kept)
        self._kept = deque(maxlen=MAX_KEPT)
        for events in _split(kept):
            yield Events(self._epoch, number, tuple(events))
            number += len(events)

    def waits(self, owner: Owner, length: int, ttft: float | None, now: float) -> None:
        """A request had to join the queue."""
        self.note(Waits(self._wall.at(now), *owner, length, ttft))

    def planned(self, request: Request, now: float, shadow: float | None = None) -> None:
        """A request has got its plan."""
        plan = request.plan
        assert plan is not None and request.decode is not None, "noted when it is booked"
        rows = zip(plan.chunks, plan.starts, plan.predicted, strict=True)
        planned = Planned(
            at=self._wall.at(now),
            request=request.owner.request,
            attempt=request.owner.attempt,
            arrived=self._wall.at(request.arrived),
            length=plan.length,
            members=plan.members,
            chunks=tuple(
                PlannedChunk(chunk.length, chunk.size, self._wall.at(now + start), seconds)
                for chunk, start, seconds in rows
            ),
            decode=request.decode,
            ttft=plan.ttft,
            policy=plan.rule,
            rate=plan.policy.rate,
            shadow=shadow,
        )
        self.note(planned)

    def began(self, task: Task, now: float) -> None:
        """All members of a chunk have come to it."""
        self.note(Began(self._wall.at(now), *task.owner, task.index))

    def computed(self, done: ChunkDone, now: float) -> None:
        """A member has done its part of a chunk."""
        computed = Computed(
            at=self._wall.at(now),
            request=done.request,
            attempt=done.attempt,
            index=done.index,
            member=done.name,
            gather=done.gather,
            balance=done.balance,
            compute=done.compute,
            wait=max(0.0, done.wait - done.gather),
            send=done.send,
        )
        self.note(computed)

    def handed_over(self, owner: Owner, member: str, now: float) -> None:
        """A prefill instance holds nothing of an attempt any more."""
        self.note(HandedOver(self._wall.at(now), *owner, member))

    def decoding(self, owner: Owner, decode: str, slots: int, now: float) -> None:
        """A decode instance has all of an attempt's KV."""
        self.note(Decoding(self._wall.at(now), *owner, decode, slots))

    def over(self, owner: Owner, how: How, now: float) -> None:
        """An attempt has ended."""
        match how:
            case EndOfRequest(reason=reason, num_tokens=num_tokens):
                event = Over(self._wall.at(now), *owner, reason, num_tokens)
            case Cancel():
                event = Over(self._wall.at(now), *owner, "cancel", 0)
            case Failed():
                event = Over(self._wall.at(now), *owner, "failed", 0)
            case _:
                event = Over(self._wall.at(now), *owner, "error", 0)
        self.note(event)


def _split(events: Iterable[Happening]) -> Iterator[list[Happening]]:
    """Lists that are neither too long nor too large for a message."""
    batch: list[Happening] = []
    room = MAX_BYTES
    for event in events:
        # As large as in the header: names are long, plans of a thousand members larger still.
        size = len(msgspec.msgpack.encode(event))
        if batch and (size > room or len(batch) == MAX_EVENTS):
            yield batch
            batch, room = [], MAX_BYTES
        batch.append(event)
        room -= size
    if batch:
        yield batch
