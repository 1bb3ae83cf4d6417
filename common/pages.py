"""The pages of one KV pool: who owns which, contiguous wherever possible.

Pure bookkeeping without tensors. A page is `PAGE` slots, a slot holds one token. Allocation
prefers one contiguous run, so that attention reads views instead of gathering; a fragmented pool
still serves, with more spans.
"""

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from common.errors import OutOfPages

PAGE = 16
"""Slots in a page."""


class Owner(NamedTuple):
    """The attempt of a request that holds pages."""

    request: str
    attempt: int


class Span(NamedTuple):
    """Consecutive slots [start, stop) of the pool."""

    start: int
    stop: int


def num_slots(spans: Iterable[Span]) -> int:
    """Slots in a list of spans."""
    return sum(stop - start for start, stop in spans)


def take(spans: Sequence[Span], start: int, stop: int) -> list[Span]:
    """The slots of tokens [start, stop) of a sequence that lies in `spans`, in order."""
    taken, passed = [], 0
    for first, last in spans:
        low, high = max(start - passed, 0), min(stop - passed, last - first)
        if low < high:
            taken.append(Span(first + low, first + high))
        passed += last - first
    return taken


def join(spans: Iterable[Span]) -> list[Span]:
    """The same slots in the same order, with adjacent spans made one."""
    joined: list[Span] = []
    for span in spans:
        if joined and joined[-1].stop == span.start:
            joined[-1] = Span(joined[-1].start, span.stop)
        else:
            joined.append(span)
    return joined


class PagePool:
    """Free pages as sorted runs, and the pages of every owner."""

    def __init__(self, num_pages: int) -> None:
        self.num_pages = num_pages
        self._free: list[Span] = [Span(0, num_pages)] if num_pages else []
        self._owned: dict[Owner, list[Span]] = {}

    @property
    def total_slots(self) -> int:
        """Slots of the whole pool."""
        return self.num_pages * PAGE

    @property
    def free_slots(self) -> int:
        """Slots that nobody owns."""
        return num_slots(self._free) * PAGE

    def owners(self) -> Iterator[tuple[Owner, int]]:
        """Every owner with the slots it holds."""
        for owner, runs in self._owned.items():
            yield owner, num_slots(runs) * PAGE

    def allocate(self, owner: Owner, num_tokens: int) -> list[Span]:
        """Whole pages for `num_tokens` more tokens of `owner`, as spans of slots.

        Raises:
            OutOfPages: the pool has too few free pages; nothing was taken.
        """
        wanted = -(-num_tokens // PAGE)
        if wanted > num_slots(self._free):
            raise OutOfPages(
                f"{num_tokens} tokens need {wanted} pages, {num_slots(self._free)} are free"
            )
        runs: list[Span] = []
        while wanted:
            run = self._pick(wanted)
            runs.append(run)
            wanted -= run.stop - run.start
        if runs:
            self._owned.setdefault(owner, []).extend(runs)
        return [Span(start * PAGE, stop * PAGE) for start, stop in runs]

    def release(self, owner: Owner) -> int:
        """Give back all pages of `owner`; how many slots that were, 0 when it holds none."""
        runs = self._owned.pop(owner, [])
        for run in runs:
            self._insert(run)
        return num_slots(runs) * PAGE

    def _pick(self, wanted: int) -> Span:
        """Take the first run that is long enough, else the longest."""
        for index, (start, stop) in enumerate(self._free):
            if stop - start >= wanted:
                if stop - start == wanted:
                    return self._free.pop(index)
                self._free[index] = Span(start + wanted, stop)
                return Span(start, start + wanted)
        longest = max(range(len(self._free)), key=lambda i: self._free[i][1] - self._free[i][0])
        return self._free.pop(longest)

    def _insert(self, run: Span) -> None:
        index = bisect_left(self._free, run)
        after = self._free[index : index + 1]
        before = self._free[index - 1 : index] if index else []
        start = before[0].start if before and before[0].stop == run.start else run.start
        stop = after[0].stop if after and after[0].start == run.stop else run.stop
        low = index - 1 if start != run.start else index
        high = index + 1 if stop != run.stop else index
        self._free[low:high] = [Span(start, stop)]
