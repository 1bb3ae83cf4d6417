"""Disagreements between books and facts that may settle by themselves, and since when they last.

Pure; seconds are monotonic. A message that is under way explains most of them, so only those that
stay through every heartbeat of a grace are acted upon.
"""

from collections.abc import Iterable
from typing import NamedTuple

from common.pages import Owner


class Scope(NamedTuple):
    """A rule, and the member whose facts it looks at."""

    member: str
    rule: str


class Sightings:
    """Since when each attempt has been seen to disagree."""

    def __init__(self, grace: float) -> None:
        self._grace = grace
        self._since: dict[Scope, dict[Owner, float]] = {}

    def due(self, scope: Scope, seen: Iterable[Owner], now: float) -> list[Owner]:
        """Those of all that disagree now which have done so without a break for the grace."""
        before = self._since.pop(scope, {})
        since = {owner: before.get(owner, now) for owner in seen}
        if since:
            self._since[scope] = since
        return [owner for owner, first in since.items() if now - first >= self._grace]

    def forget(self, owner: Owner) -> None:
        """The attempt is over, or something explains why it disagrees."""
        for scope in [scope for scope, since in self._since.items() if owner in since]:
            del self._since[scope][owner]

    def leave(self, name: str) -> None:
        """A member is gone with its facts."""
        for scope in [scope for scope in self._since if scope.member == name]:
            del self._since[scope]

    def restart(self) -> None:
        """Begin all graces again, after a time in which nobody was heard."""
        self._since.clear()

    @property
    def owners(self) -> set[Owner]:
        """Attempts that disagree somewhere."""
        return {owner for since in self._since.values() for owner in since}
