from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from common.errors import OutOfPages
from common.pages import PAGE, Owner, PagePool, Span, join, num_slots, take

PAGES = 12
owners = st.builds(Owner, st.sampled_from("abc"), st.integers(1, 2))


class Pool(RuleBasedStateMachine):
    """Random allocations and releases against a plain set of slots per owner."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = PagePool(PAGES)
        self.slots: dict[Owner, set[int]] = {}

    def taken(self) -> set[int]:
        return set().union(*self.slots.values())

    @rule(owner=owners, tokens=st.integers(0, PAGES * PAGE + 1))
    def allocate(self, owner: Owner, tokens: int) -> None:
        pages = -(-tokens // PAGE)
        free = PAGES * PAGE - len(self.taken())
        if pages * PAGE > free:
            with pytest.raises(OutOfPages):
                self.pool.allocate(owner, tokens)
            return
        spans = self.pool.allocate(owner, tokens)
        slots = {slot for span in spans for slot in range(*span)}
        assert len(slots) == num_slots(spans) == pages * PAGE
        assert not slots & self.taken()
        assert slots <= set(range(PAGES * PAGE))
        assert all(span.start % PAGE == 0 for span in spans)
        if self.longest_free_run() >= pages:
            assert len(spans) <= 1
        if slots:
            self.slots.setdefault(owner, set()).update(slots)

    def longest_free_run(self) -> int:
        """Pages, before the slots just handed out are noted."""
        taken, longest, run = self.taken(), 0, 0
        for page in range(PAGES):
            run = 0 if page * PAGE in taken else run + 1
            longest = max(longest, run)
        return longest

    @rule(owner=owners)
    def release(self, owner: Owner) -> None:
        assert self.pool.release(owner) == len(self.slots.pop(owner, ()))
        assert self.pool.release(owner) == 0

    @precondition(lambda self: not self.slots)
    @rule()
    def an_empty_pool_is_one_run(self) -> None:
        owner = Owner("whole", 1)
        assert self.pool.allocate(owner, PAGES * PAGE) == [Span(0, PAGES * PAGE)]
        self.pool.release(owner)

    @invariant()
    def books_balance(self) -> None:
        held = {owner: len(slots) for owner, slots in self.slots.items()}
        assert dict(self.pool.owners()) == held
        assert self.pool.free_slots + sum(held.values()) == self.pool.total_slots


TestPool = Pool.TestCase
TestPool.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)


def test_a_refused_allocation_takes_nothing():
    pool = PagePool(2)
    pool.allocate(Owner("a", 1), 1)
    with pytest.raises(OutOfPages, match="need 2 pages, 1 are free"):
        pool.allocate(Owner("b", 1), PAGE + 1)
    assert pool.free_slots == PAGE


def test_a_fragmented_pool_still_serves_in_several_spans():
    pool = PagePool(4)
    for name in "abcd":
        pool.allocate(Owner(name, 1), PAGE)
    pool.release(Owner("a", 1))
    pool.release(Owner("c", 1))
    assert pool.allocate(Owner("e", 1), 2 * PAGE) == [Span(0, 16), Span(32, 48)]


spans = st.lists(
    st.tuples(st.integers(0, 50), st.integers(0, 9)).map(lambda s: Span(s[0], s[0] + s[1]))
)


def slots(of: list[Span]) -> list[int]:
    return [slot for span in of for slot in range(*span)]


@given(spans, st.integers(0, 60), st.integers(0, 60))
def test_take_is_a_slice_of_the_slots(of, start, stop):
    assert slots(take(of, start, stop)) == slots(of)[start:stop]


@given(spans)
def test_join_keeps_slots_and_order_and_leaves_no_neighbours(of):
    joined = join(of)
    assert slots(joined) == slots(of)
    assert all(a.stop != b.start for a, b in pairwise(joined))
