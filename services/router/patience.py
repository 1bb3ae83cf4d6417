"""What waiting requests cannot go on waiting for."""

from common.config import RouterConfig
from services.router.attempts import Attempts
from services.router.books import Books
from services.router.planning import Planning


class Patience:
    """Rejects what cannot start in the mesh of now, and what found no decode in its time."""

    def __init__(
        self, config: RouterConfig, books: Books, planning: Planning, attempts: Attempts
    ) -> None:
        self._timeout = config.no_decode_timeout
        self._books = books
        self._planning = planning
        self._attempts = attempts
        self._without_decode: float | None = None

    def tick(self, now: float) -> None:
        """Reject what has waited for too long."""
        self._end_without_decode(now)
        self._end_impossible(now)

    def restart(self) -> None:
        """Begin again, after a time in which no member could have joined."""
        self._without_decode = None

    def _end_without_decode(self, now: float) -> None:
        waiting = self._books.requests.waiting
        if self._books.registry.of("decode-worker") or not waiting:
            self._without_decode = None
        elif self._without_decode is None:
            self._without_decode = now
        elif now - self._without_decode >= self._timeout:
            for request in waiting:
                self._attempts.reject(request, 503, "there is no decode instance", now)

    def _end_impossible(self, now: float) -> None:
        """Reject what cannot start in the mesh of now, which is all there will be."""
        if not self._books.registry.is_growing(now):
            for request, why in self._planning.stuck():
                self._attempts.reject(request, 400, why, now)
