"""Tells all gateways what has happened, the state of the mesh among it; nothing is repeated."""

from collections.abc import Callable, Mapping

from services.router.books import Books
from services.router.mesh_state import mesh_state
from services.router.planning import Send
from services.router.scheduler import Scheduler

PERIOD = 0.1
"""Seconds between two tellings, at least."""
STATE = 1.0
"""Seconds between two states of the mesh."""


class Herald:
    """Of one router life; `drift` is measured over predicted seconds by SP size."""

    def __init__(
        self,
        books: Books,
        scheduler: Scheduler,
        drift: Callable[[], Mapping[int, float]],
        send: Send,
    ) -> None:
        self._books = books
        self._scheduler = scheduler
        self._drift = drift
        self._send = send
        self._due = float("-inf")

    def tell(self, now: float) -> None:
        """Send what has happened since the last time, if anything."""
        books = self._books
        gateways = books.registry.of("gateway")
        if gateways and now >= self._due:
            self._due = now + STATE - PERIOD / 2
            books.recorder.note(mesh_state(books, self._scheduler, self._drift(), now))
        for events in books.recorder.take():
            for gateway in gateways:
                self._send(gateway.inbox, events)
