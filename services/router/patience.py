"""What waiting requests cannot go on waiting for."""

from common.config import RouterConfig
from common.messages import Role
from services.router.attempts import Attempts
from services.router.books import Books
from services.router.planning import Planning

_NEEDED: dict[Role, str] = {
    "decode-worker": "decode instance",
    "prefill-worker": "prefill instance",
    "kv-transfer": "broker",
}
"""Without one of each nothing starts."""


class Patience:
    """Rejects what cannot start in the mesh of now, and what missed a whole role for too long."""

    def __init__(
        self, config: RouterConfig, books: Books, planning: Planning, attempts: Attempts
    ) -> None:
        self._timeout = config.no_decode_timeout
        self._books = books
        self._planning = planning
        self._attempts = attempts
        self._born: float | None = None
        self._since: float | None = None
        """When a role without which nothing starts was first missing."""

    def tick(self, now: float) -> None:
        """Reject what has waited for too long."""
        self._born = now if self._born is None else self._born
        self._end_without_role(now)
        self._end_impossible(now)

    def restart(self) -> None:
        """Begin again, after a time in which no member could have joined."""
        self._since = None

    def _end_without_role(self, now: float) -> None:
        waiting, registry = self._books.requests.waiting, self._books.registry
        missing = next((what for role, what in _NEEDED.items() if not registry.of(role)), None)
        if missing is None or not waiting:
            self._since = None
        elif self._since is None:
            self._since = now
        elif now - self._since >= self._timeout:
            for request in waiting:
                self._attempts.reject(request, 503, f"there is no {missing}", now)

    def _end_impossible(self, now: float) -> None:
        """Reject what cannot start in the mesh of now, which is all there will be."""
        if self._books.registry.is_growing(now):
            return
        # Who served the attempts before may have died with the router before, and is not missed.
        is_young = self._born is None or now - self._born < self._timeout
        for request, why in self._planning.stuck():
            if request.owner.attempt == 1 or not is_young:
                self._attempts.reject(request, 400, why, now)
