"""The KV slots of a decode instance: the one object that its threads share, behind a lock.

The copy thread calls `open` and `copied`, the event loop everything else; the engine thread only
sees the spans that the loop gave it.

Slots go back to the pool only when nobody can still be writing to them: the copy thread writes
from `open` to `copied`, the engine while its batch is pinned.
"""

import threading
from collections.abc import Container, Iterable, Sequence

from common.messages import Held, KvCommit, KvLayer
from common.pages import Owner, PagePool, Span, join
from common.recent import Recent

MAX_ENDED = 4096
"""Ended attempts that are remembered, so that their late frames are dropped."""

MAX_HELD = 4096
"""Entries of a heartbeat."""


class Slots:
    """Pages by owner, opened by their first KV and closed when the request ends."""

    def __init__(self, num_pages: int) -> None:
        self._lock = threading.Lock()
        self._pool = PagePool(num_pages)
        self._spans: dict[Owner, list[Span]] = {}
        self._layers: dict[Owner, set[tuple[int, int, int]]] = {}
        self._since: dict[Owner, float] = {}
        self._ended: Recent[Owner] = Recent(MAX_ENDED)
        self._copying: set[Owner] = set()
        self._pinned: set[Owner] = set()
        self._doomed: set[Owner] = set()

    def open(self, message: KvLayer, now: float) -> Sequence[Span] | None:
        """The slots of the message's request in prompt order, reserved at its first KV.

        None when the request has ended: its frames are to be dropped.

        Raises:
            OutOfPages: they cannot be reserved; nothing has changed.
        """
        owner = Owner(message.request, message.attempt)
        with self._lock:
            self._let_go(self._copying)
            if owner in self._ended:
                return None
            if owner not in self._spans:
                self._reserve(owner, max(message.reserve, message.prompt_length), now)
            self._copying.add(owner)
            self._layers[owner].add((message.chunk, message.rank, message.layer))
            return list(self._spans[owner])

    def reserve(self, owner: Owner, num_tokens: int, now: float) -> None:
        """What `open` does at the first KV, before it comes; nothing when it was done.

        Raises:
            OutOfPages: they cannot be reserved; nothing has changed.
        """
        with self._lock:
            if owner not in self._spans and owner not in self._ended:
                self._reserve(owner, num_tokens, now)

    def num_layers(self, commit: KvCommit) -> int:
        """Different layers of the commit's transfer that have arrived."""
        with self._lock:
            layers = self._layers.get(Owner(commit.request, commit.attempt), set())
            return sum((chunk, rank) == (commit.chunk, commit.rank) for chunk, rank, _ in layers)

    def spans(self, owner: Owner) -> list[Span]:
        """The owner's slots in order; none when it has not opened any."""
        with self._lock:
            return list(self._spans.get(owner, ()))

    def grow(self, owner: Owner, num_tokens: int) -> list[Span]:
        """All slots of the owner after adding room for `num_tokens` more.

        Raises:
            OutOfPages: nothing was added.
        """
        with self._lock:
            self._spans[owner] = join(
                [*self._spans[owner], *self._pool.allocate(owner, num_tokens)]
            )
            return list(self._spans[owner])

    def end(self, owner: Owner) -> None:
        """Take no more KV of the owner; its slots go back once nobody writes to them."""
        with self._lock:
            self._ended.add(owner)
            self._doomed.add(owner)
            self._bury()

    def pin(self, owners: Iterable[Owner]) -> None:
        """Keep the slots of these owners until `unpin`: a step writes to them."""
        with self._lock:
            self._pinned.update(owners)

    def unpin(self) -> None:
        """The step is over."""
        with self._lock:
            self._let_go(self._pinned)

    def ended(self, owner: Owner) -> bool:
        """Whether this attempt is over."""
        with self._lock:
            return owner in self._ended

    def copied(self) -> None:
        """The copy thread is done with the spans that `open` gave it last."""
        with self._lock:
            self._let_go(self._copying)

    def totals(self) -> tuple[int, int]:
        """Slots in all, and slots that nobody holds."""
        with self._lock:
            return self._pool.total_slots, self._pool.free_slots

    def owners(self) -> list[Owner]:
        """Everyone who holds slots, also those whose end still waits for a writer."""
        with self._lock:
            return [owner for owner, _ in self._pool.owners()]

    def held(self, now: float, admitted: Container[Owner] = ()) -> tuple[Held, ...]:
        """What every request holds."""
        with self._lock:
            owners = list(self._pool.owners())[:MAX_HELD]
            return tuple(
                Held(*owner, slots, max(now - self._since[owner], 0.0), owner in admitted)
                for owner, slots in owners
            )

    def _reserve(self, owner: Owner, num_tokens: int, now: float) -> None:
        self._spans[owner] = join(self._pool.allocate(owner, num_tokens))
        self._layers[owner] = set()
        self._since[owner] = now

    def _let_go(self, writers: set[Owner]) -> None:
        writers.clear()
        self._bury()

    def _bury(self) -> None:
        for owner in self._doomed - self._copying - self._pinned:
            self._doomed.discard(owner)
            self._pool.release(owner)
            self._spans.pop(owner, None)
            self._layers.pop(owner, None)
            self._since.pop(owner, None)
