"""A bounded set that forgets its oldest members.

Remembers what is over, so that a late or repeated message does not start it again.
"""

from typing import Generic, TypeVar

T = TypeVar("T")


class Recent(Generic[T]):
    """The last `limit` things that were added."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._members: dict[T, None] = {}

    def __contains__(self, member: T) -> bool:
        return member in self._members

    def __len__(self) -> int:
        return len(self._members)

    def add(self, member: T) -> None:
        """Remember `member` as the newest, forgetting the oldest when full."""
        self._members.pop(member, None)
        self._members[member] = None
        if len(self._members) > self._limit:
            del self._members[next(iter(self._members))]
