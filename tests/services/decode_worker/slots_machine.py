"""Pages of a decode instance in any order of KV, growth, steps and ends, beside a naive count."""

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from common.errors import OutOfPages
from common.pages import PAGE, Owner
from services.decode_worker.slots import Slots
from tests.services.decode_worker.transfers import layer

OWNERS = [Owner(name, attempt) for name in "abc" for attempt in (1, 2)]
TOKENS = st.integers(1, 6 * PAGE)


class SlotsMachine(RuleBasedStateMachine):
    """Copy thread, engine and loop share the slots; the model counts pages by owner."""

    @initialize(num_pages=st.integers(1, 12))
    def begin(self, num_pages: int) -> None:
        self.num_pages = num_pages
        self.slots = Slots(num_pages)
        self.pages: dict[Owner, int] = {}
        self.ended: set[Owner] = set()
        self.copying: set[Owner] = set()
        self.pinned: set[Owner] = set()

    @rule(owner=st.sampled_from(OWNERS), tokens=TOKENS)
    def open(self, owner: Owner, tokens: int) -> None:
        self.copying.clear()
        self.bury()
        message = layer(0, *owner, prompt_length=tokens, reserve=1)
        if owner not in self.ended:
            is_new = owner not in self.pages
            try:
                spans = self.slots.open(message, 0.0)
            except OutOfPages:
                assert is_new and self.needed(tokens) > self.num_free()
            else:
                self.pages.setdefault(owner, self.needed(tokens))
                self.copying = {owner}
                assert spans == self.slots.spans(owner)
        else:
            assert self.slots.open(message, 0.0) is None

    @rule()
    def copied(self) -> None:
        self.slots.copied()
        self.copying.clear()
        self.bury()

    @rule(owner=st.sampled_from(OWNERS), tokens=TOKENS)
    def reserve(self, owner: Owner, tokens: int) -> None:
        try:
            self.slots.reserve(owner, tokens, 0.0)
        except OutOfPages:
            assert owner not in self.ended and self.needed(tokens) > self.num_free()
        else:
            if owner not in self.ended:
                self.pages.setdefault(owner, self.needed(tokens))

    @precondition(lambda self: self.living())
    @rule(data=st.data(), tokens=TOKENS)
    def grow(self, data: st.DataObject, tokens: int) -> None:
        owner = data.draw(st.sampled_from(self.living()))
        try:
            self.slots.grow(owner, tokens)
        except OutOfPages:
            assert self.needed(tokens) > self.num_free()
        else:
            self.pages[owner] += self.needed(tokens)

    @precondition(lambda self: not self.pinned and self.living())
    @rule(data=st.data())
    def pin(self, data: st.DataObject) -> None:
        self.pinned = data.draw(st.sets(st.sampled_from(self.living())))
        self.slots.pin(self.pinned)

    @rule()
    def unpin(self) -> None:
        self.slots.unpin()
        self.pinned.clear()
        self.bury()

    @rule(owner=st.sampled_from(OWNERS))
    def end(self, owner: Owner) -> None:
        self.slots.end(owner)
        self.ended.add(owner)
        self.bury()

    @invariant()
    def books_balance(self) -> None:
        used = sum(self.pages.values()) * PAGE
        assert self.slots.totals() == (self.num_pages * PAGE, self.num_pages * PAGE - used)
        held = {Owner(one.request, one.attempt): one.slots for one in self.slots.held(0.0)}
        assert held == {owner: pages * PAGE for owner, pages in self.pages.items()}
        assert set(self.slots.owners()) == set(held)

    @invariant()
    def nobody_shares_a_slot(self) -> None:
        owned = [
            slot for one in self.pages for span in self.slots.spans(one) for slot in range(*span)
        ]
        assert len(set(owned)) == len(owned) == sum(self.pages.values()) * PAGE

    def teardown(self) -> None:
        for owner in OWNERS:
            self.end(owner)
        self.copied()
        self.unpin()
        assert self.slots.totals() == (self.num_pages * PAGE,) * 2

    def living(self) -> list[Owner]:
        return sorted(set(self.pages) - self.ended)

    def num_free(self) -> int:
        return self.num_pages - sum(self.pages.values())

    def needed(self, tokens: int) -> int:
        return -(-tokens // PAGE)

    def bury(self) -> None:
        for owner in self.ended - self.copying - self.pinned:
            self.pages.pop(owner, None)
