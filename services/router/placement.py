"""Which decode instance takes a request: the one with the highest freeness.

Freeness is free slots over active batch size, slots promised to requests whose KV is still on
its way (virtual usage) counted as used. Pure.
"""

from dataclasses import dataclass, field

from common.messages import DecodeFacts
from common.pages import Owner
from services.router.memory import round_up


@dataclass(slots=True)
class _Instance:
    total: int
    free: int
    active: int = 0
    held: set[Owner] = field(default_factory=set)
    """Attempts whose slots are no longer in `free`."""
    admitted: set[Owner] = field(default_factory=set)
    """Those of them that it decodes."""
    virtual: dict[Owner, int] = field(default_factory=dict)

    def left(self) -> int:
        promised = sum(slots for owner, slots in self.virtual.items() if owner not in self.held)
        return self.free - promised


class Placement:
    """Slots of every decode instance, real and virtual."""

    def __init__(self) -> None:
        self._instances: dict[str, _Instance] = {}

    def join(self, name: str, total_slots: int) -> None:
        """A new life of a decode instance, empty."""
        self._instances[name] = _Instance(total_slots, total_slots)

    def leave(self, name: str) -> None:
        """A decode instance is gone."""
        self._instances.pop(name, None)

    def refresh(self, name: str, facts: DecodeFacts) -> None:
        """Take an instance's own statistics over."""
        instance = self._instances[name]
        instance.total, instance.free = facts.total_slots, facts.free_slots
        instance.active = facts.active
        instance.held = {Owner(held.request, held.attempt) for held in facts.held}
        instance.admitted = {Owner(one.request, one.attempt) for one in facts.held if one.admitted}

    def carrier(self, owner: Owner) -> str | None:
        """The instance that decodes an attempt, as far as statistics tell."""
        instances = self._instances.items()
        return next((name for name, instance in instances if owner in instance.admitted), None)

    def holds(self, owner: Owner) -> bool:
        """Whether an instance has told that it holds slots of an attempt."""
        return any(owner in instance.held for instance in self._instances.values())

    def freeness(self, name: str) -> float:
        """Free slots per active request."""
        instance = self._instances[name]
        return instance.left() / max(1, instance.active)

    def left(self, usable: set[str]) -> dict[str, int]:
        """Slots that nobody has or was promised, of each of those instances."""
        return {name: one.left() for name, one in self._instances.items() if name in usable}

    def choose(self, slots: int, usable: set[str]) -> str | None:
        """The instance with the highest freeness among those that can hold `slots` more."""
        fitting = [
            name
            for name, instance in self._instances.items()
            if name in usable and instance.left() >= slots
        ]
        return max(fitting, key=self.freeness, default=None)

    def largest(self, usable: set[str]) -> int:
        """Slots of the largest instance among those; 0 without any."""
        return max((self._instances[name].total for name in usable), default=0)

    def book(self, owner: Owner, name: str, slots: int) -> None:
        """Promise slots to an attempt from its planning on."""
        self._instances[name].virtual[owner] = slots

    def admit(self, owner: Owner, name: str, slots: int) -> None:
        """Virtual usage becomes real."""
        instance = self._instances[name]
        instance.virtual.pop(owner, None)
        if owner not in instance.held:
            instance.held.add(owner)
            instance.free = max(0, instance.free - slots)
            instance.active += 1

    def drop(self, owner: Owner, name: str) -> None:
        """The attempt is over; what it held in fact comes back with the next statistics."""
        instance = self._instances.get(name)
        if instance is not None:
            instance.virtual.pop(owner, None)

    @property
    def owners(self) -> set[Owner]:
        """Attempts with virtual usage anywhere."""
        return {owner for instance in self._instances.values() for owner in instance.virtual}


def decode_slots(num_tokens: int, max_tokens: int, reserve_tokens: int) -> int:
    """Slots that decode reserves at planning: the prompt and some of what is to come."""
    return round_up(num_tokens + min(max_tokens, reserve_tokens))
