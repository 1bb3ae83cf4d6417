"""The bell of one request: its calls ring it, its handler waits for it."""

import asyncio
from typing import Generic, TypeVar

T = TypeVar("T")


class Bell(Generic[T]):
    """Tells who has something new; who rings twice before somebody looks counts once."""

    def __init__(self) -> None:
        self._rung = asyncio.Event()
        self._who: dict[T, None] = {}

    def ring(self, who: T) -> None:
        """Let the handler look at it."""
        self._who[who] = None
        self._rung.set()

    def nudge(self) -> None:
        """Wake the handler although there is nothing new."""
        self._rung.set()

    async def heard(self) -> list[T]:
        """Who has rung since the last time, nobody after a nudge; cancelling it loses nobody."""
        await self._rung.wait()
        self._rung.clear()
        who = list(self._who)
        self._who.clear()
        return who
