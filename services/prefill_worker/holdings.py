"""Which KV slots of this instance hold what of which request.

Slots are handed out at the start of a chunk, by the engine thread alone. So a release from another
thread while a chunk runs frees slots that nobody else can get before that chunk ends: whatever
the chunk still reads or writes there harms nobody. One lock guards the books; the event loop
reads them for heartbeats.
"""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from threading import Lock

from common.errors import RequestFailed
from common.messages import Chunk, Held, RunChunk
from common.pages import Owner, PagePool, Span, join, num_slots, take
from common.sharding import Move, history, moves, num_tokens, shards

MAX_ENDED = 4096
"""Ended attempts that are remembered, so that a late chunk cannot bring one back."""


@dataclass(frozen=True)
class ChunkSlots:
    """Slots of one chunk on one member, each list in the order in which its tokens lie."""

    own: list[Span]
    """Shards A and B of this chunk."""
    history: list[Span]
    """What this member holds of the history once balancing is through."""
    given: list[tuple[Move, list[Span]]]
    taken: list[tuple[Move, list[Span]]]


@dataclass
class _Request:
    """One attempt's slots: what counts as history here, and the own shards of every chunk."""

    history: list[Span] = field(default_factory=list)
    chunks: dict[int, list[Span]] = field(default_factory=dict)


class Holdings:
    """The page pool and the books of all requests that hold pages."""

    def __init__(self, pool: PagePool) -> None:
        self._pool = pool
        self._requests: dict[Owner, _Request] = {}
        self._ended: OrderedDict[Owner, None] = OrderedDict()
        self._lock = Lock()

    @property
    def total_slots(self) -> int:
        """Slots of the whole pool."""
        return self._pool.total_slots

    @property
    def free_slots(self) -> int:
        """Slots that nobody holds; any thread."""
        with self._lock:
            return self._pool.free_slots

    def held(self) -> tuple[Held, ...]:
        """Slots of every attempt; any thread."""
        with self._lock:
            return tuple(
                Held(owner.request, owner.attempt, slots) for owner, slots in self._pool.owners()
            )

    def spans(self, request: str, attempt: int, chunk: int) -> list[Span]:
        """Slots of this member's own shards of a chunk, none when it holds none; any thread."""
        with self._lock:
            books = self._requests.get(Owner(request, attempt))
            return list(books.chunks.get(chunk, ())) if books else []

    def release(self, request: str, attempt: int) -> None:
        """Free everything of an attempt; idempotent, any thread."""
        owner = Owner(request, attempt)
        with self._lock:
            self._requests.pop(owner, None)
            self._pool.release(owner)
            self._ended[owner] = None
            while len(self._ended) > MAX_ENDED:
                self._ended.popitem(last=False)

    def open(self, run: RunChunk) -> ChunkSlots:
        """Slots for a chunk and for the history that comes with it.

        What is given away stays readable, but is no history of this member any more.

        Raises:
            OutOfPages: the pool cannot hold them.
            RequestFailed: the attempt has ended, or this member lacks what the plan says.
        """
        owner = Owner(run.request, run.attempt)
        with self._lock:
            if owner in self._ended:
                raise RequestFailed(f"{run.request} attempt {run.attempt} has already ended")
            books = self._requests.setdefault(owner, _Request())
            mine = [m for m in moves(run.chunks, run.index) if run.rank in (m.sender, m.receiver)]
            given, kept = _give(books.history, [m for m in mine if m.sender == run.rank])
            taken = self._take(owner, [m for m in mine if m.receiver == run.rank])
            held = join([*kept, *(span for _, spans in taken for span in spans)])
            _check(held, run)
            own = self._allocate(owner, _num_own(run.chunks[run.index], run.rank))
            books.history = join([*held, *own])
            books.chunks[run.index] = own
        return ChunkSlots(own, held, given, taken)

    def _take(self, owner: Owner, received: Sequence[Move]) -> list[tuple[Move, list[Span]]]:
        """Fresh slots for every move, cut from one allocation."""
        sizes = [num_tokens(move.intervals) for move in received]
        spans = self._allocate(owner, sum(sizes))
        cut, passed = [], 0
        for move, size in zip(received, sizes, strict=True):
            cut.append((move, take(spans, passed, passed + size)))
            passed += size
        return cut

    def _allocate(self, owner: Owner, count: int) -> list[Span]:
        return take(self._pool.allocate(owner, count), 0, count)


def _num_own(chunk: Chunk, rank: int) -> int:
    return num_tokens(shards(chunk, rank))


def _give(
    held: list[Span], sent: Sequence[Move]
) -> tuple[list[tuple[Move, list[Span]]], list[Span]]:
    """What goes with every move, from the end of what is held, and what stays."""
    given, stop = [], num_slots(held)
    for move in sent:
        start = stop - num_tokens(move.intervals)
        given.append((move, take(held, start, stop)))
        stop = start
    return given, take(held, 0, stop)


def _check(held: list[Span], run: RunChunk) -> None:
    planned = num_tokens(history(run.chunks, run.index)[run.rank])
    if num_slots(held) != planned:
        raise RequestFailed(
            f"rank {run.rank} of {run.request} holds {num_slots(held)} tokens of the history,"
            f" the plan says {planned}"
        )
