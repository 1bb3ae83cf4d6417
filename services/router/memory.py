"""KV slots of the prefill instances: what a plan needs of each member, and who holds how much.

A member frees nothing of a request before all of it is released, so it needs the history that it
receives when it joins and its own shards of every chunk from then on, each in whole pages. That
covers the balancing copy and whatever decode has not acknowledged.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from common.messages import Chunk
from common.pages import PAGE, Owner
from common.sharding import num_tokens, shards
from services.router.plan import Plan


@dataclass(slots=True)
class _Books:
    total: int
    held: dict[Owner, tuple[int, int]] = field(default_factory=dict)
    """Slots, and the last turn in which the owner still needs them."""
    strangers: dict[Owner, int] = field(default_factory=dict)
    """Slots in use that this router has promised to nobody, as after its restart."""

    def free(self) -> int:
        promised = sum(slots for slots, _ in self.held.values())
        return self.total - promised - sum(self.strangers.values())


class Memory:
    """Slots promised to every attempt on every instance."""

    def __init__(self) -> None:
        self._instances: dict[str, _Books] = {}

    def join(self, name: str, total_slots: int) -> None:
        """A new life of an instance, with an empty pool."""
        self._instances[name] = _Books(total_slots)

    def leave(self, name: str) -> None:
        """An instance is gone with all that it held."""
        self._instances.pop(name, None)

    def free(self) -> dict[str, int]:
        """Slots that nobody has or was promised, by instance."""
        return {name: books.free() for name, books in self._instances.items()}

    def totals(self) -> dict[str, int]:
        """Slots of every instance."""
        return {name: books.total for name, books in self._instances.items()}

    def reserve(self, owner: Owner, slots: Mapping[str, int], turns: Mapping[str, int]) -> None:
        """Promise slots by instance; `turns` is the owner's last turn on each."""
        for name, count in slots.items():
            books = self._instances[name]
            books.held[owner] = (count, turns[name])
            books.strangers.pop(owner, None)

    def release(self, owner: Owner, name: str) -> bool:
        """An instance holds nothing of an attempt any more; False when nothing was promised."""
        books = self._instances.get(name)
        if books is None:
            return False
        was_stranger = books.strangers.pop(owner, None) is not None
        return books.held.pop(owner, None) is not None or was_stranger

    def reconcile(self, name: str, held: Mapping[Owner, int], finished_through: int) -> list[Owner]:
        """Release what is not among the slots held by owner though its last turn is over.

        Returns:
            The attempts of which nothing is held any more.
        """
        books = self._instances[name]
        gone = [
            owner
            for owner, (_, turn) in books.held.items()
            if turn <= finished_through and owner not in held
        ]
        for owner in gone:
            del books.held[owner]
        books.strangers = {owner: held[owner] for owner in held if owner not in books.held}
        return gone

    @property
    def promises(self) -> Iterator[tuple[str, Owner, int]]:
        """All slots that are promised: on which instance, to whom, how many."""
        for name, books in self._instances.items():
            for owner, (slots, _) in books.held.items():
                yield name, owner, slots

    @property
    def owners(self) -> set[Owner]:
        """Attempts with slots anywhere."""
        books = self._instances.values()
        return {owner for one in books for owner in (*one.held, *one.strangers)}


def round_up(tokens: int) -> int:
    """Slots of the whole pages that hold so many tokens."""
    return -(-tokens // PAGE) * PAGE


def single_chunk_slots(length: int, size: int) -> int:
    """The most slots that a member needs when one chunk takes the whole prompt."""
    return round_up(2 * -(-length // (2 * size)))


def member_slots(chunks: tuple[Chunk, ...], rank: int) -> int:
    """Slots that the plan's member `rank` needs."""
    total = 0
    joined = False
    for chunk in chunks:
        if rank >= chunk.size:
            continue
        if not joined:
            joined = True
            share = chunk.history * (rank + 1) // chunk.size - chunk.history * rank // chunk.size
            total += round_up(share)
        total += round_up(num_tokens(shards(chunk, rank)))
    return total


def plan_slots(plan: Plan) -> dict[str, int]:
    """Slots that a plan needs, by instance."""
    return {name: member_slots(plan.chunks, rank) for rank, name in enumerate(plan.members)}


def fits(plan: Plan, free: Mapping[str, int]) -> bool:
    """Whether every member has the slots that the plan needs."""
    # All that a member may need, with a page to round up for its history and each chunk.
    plenty = single_chunk_slots(plan.length, plan.chunks[0].size) + 2 * PAGE * len(plan.chunks)
    if min([free[name] for name in plan.members]) >= plenty:
        return True
    return all(slots <= free[name] for name, slots in plan_slots(plan).items())
