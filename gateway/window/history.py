"""What the router has told of requests and members of late, bounded; pure, time is an argument.

Events are kept in the batches in which they came. A position counts all events that came, and
those that got lost, over all epochs of the router: who reads keeps the position that it wants
next, so that a slow reader holds nothing, and skips what has been forgotten.
"""

from bisect import bisect_left
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from operator import attrgetter

from common.events import DecodeState, Happening, MeshState, PrefillState
from common.messages import Events

MAX_EVENTS = 200_000
MAX_AGE = 900.0
"""Seconds for which events are kept, at most."""
BATCH = 1000
"""Events of one batch, at most."""
MAX_NODES = 8192
"""Members of which the machine is remembered."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Events that came together."""

    position: int
    came: float
    """By this gateway's clock."""
    epoch: int
    first: int
    """Number of the first event in its epoch."""
    lost: int
    """Events that are missing right before it."""
    events: tuple[Happening, ...]

    @property
    def end(self) -> int:
        """The position behind it."""
        return self.position + self.lost + len(self.events)


@dataclass(slots=True)
class Read:
    """What there is from a position on."""

    next: int
    """The position to read from the next time."""
    lost: int = 0
    """Events that were to come before these, and never will."""
    epoch: int = 0
    last: int = 0
    """Number of the last event in its epoch."""
    events: list[Happening] = field(default_factory=list)


class History:
    """The last events of the mesh, in order, and by request."""

    def __init__(self, max_events: int = MAX_EVENTS, max_age: float = MAX_AGE) -> None:
        self.lost = 0
        """Events that never came, so far."""
        self.nodes: dict[str, str] = {}
        """Machines of members, of those that have left too."""
        self._max_events = max_events
        self._max_age = max_age
        self._batches: deque[Batch] = deque()
        self._count = 0
        self._end = 0
        self._epoch = 0
        self._expected: int | None = None
        self._by_request: dict[str, deque[Happening]] = {}

    def __len__(self) -> int:
        return self._count

    @property
    def end(self) -> int:
        """The position of what comes next."""
        return self._end

    def take(self, message: Events, now: float) -> tuple[Happening, ...]:
        """Take what the router says; those events that are new.

        A router's life numbers its events anew. What an earlier life says late is not taken.
        """
        if message.epoch < self._epoch:
            return ()
        if message.epoch > self._epoch:
            # How much of the new life was said before this gateway had joined, nobody knows.
            self._epoch, self._expected = message.epoch, message.first
        expected = message.first if self._expected is None else self._expected
        fresh = message.events[max(0, expected - message.first) :]
        if not fresh:
            return ()
        lost = max(0, message.first - expected)
        self.lost += lost
        start = max(message.first, expected)
        self._expected = start + len(fresh)
        for offset in range(0, len(fresh), BATCH):
            part = fresh[offset : offset + BATCH]
            self._put(Batch(self._end, now, message.epoch, start + offset, lost, part))
            lost = 0
        self.forget(now)
        return fresh

    def forget(self, now: float) -> None:
        """Let go of what is too old or too much."""
        batches = self._batches
        while batches and (self._count > self._max_events or now - batches[0].came > self._max_age):
            self._drop(batches.popleft())

    def since(self, moment: float) -> int:
        """Position of the first event that came at this moment or later."""
        index = bisect_left(self._batches, moment, key=attrgetter("came"))
        return self._batches[index].position if index < len(self._batches) else self._end

    def read(self, position: int, limit: int = BATCH) -> Read:
        """The events from here on, whole batches of one epoch without a hole between them.

        At least one batch, if there is one; more as long as `limit` events suffice.
        """
        # What is not there any more counts as lost, unless something is found.
        read = Read(self._end, self._end - position)
        index = bisect_left(self._batches, position, key=attrgetter("position"))
        for batch in islice(self._batches, index, None):
            num_events = len(read.events) + len(batch.events)
            if read.events and (batch.lost or batch.epoch != read.epoch or num_events > limit):
                break
            if not read.events:
                read.lost = batch.position - position + batch.lost
            read.next, read.epoch = batch.end, batch.epoch
            read.last = batch.first + len(batch.events) - 1
            read.events += batch.events
        return read

    def of(self, request: str) -> tuple[Happening, ...]:
        """All that is remembered of a request, in order."""
        return tuple(self._by_request.get(request, ()))

    def requests(self) -> Iterator[str]:
        """The requests that are remembered, those that came last first."""
        return reversed(self._by_request)

    def _put(self, batch: Batch) -> None:
        self._end = batch.end
        self._count += len(batch.events)
        self._batches.append(batch)
        for event in batch.events:
            if isinstance(event, MeshState):
                self._place(event)
            else:
                self._by_request.setdefault(event.request, deque()).append(event)

    def _drop(self, batch: Batch) -> None:
        self._count -= len(batch.events)
        for event in batch.events:
            if isinstance(event, MeshState):
                continue
            known = self._by_request[event.request]
            known.popleft()
            if not known:
                del self._by_request[event.request]

    def _place(self, state: MeshState) -> None:
        members: list[PrefillState | DecodeState] = [*state.prefill, *state.decode]
        for member in members:
            self.nodes[member.name] = member.node
        while len(self.nodes) > MAX_NODES:
            del self.nodes[next(iter(self.nodes))]
