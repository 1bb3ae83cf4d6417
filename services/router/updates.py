"""Which schedule is in force: its version, what changes it, and who still has to hear of it.

Gateways remember the newest schedule that they have heard of. What one of them knows is taken over,
so that a router's next life goes on with what operators have put in force.
"""

from collections.abc import Callable

from msgspec import ValidationError

from common.errors import RequestFailed
from common.failpoints import hit
from common.messages import Endpoint, InForce, Query, Scheduled, Update
from common.schedule import Schedule, ScheduleChange, changed, in_words
from services.router.books import Books
from services.router.planning import Planning
from services.router.scheduler import sizes_of

MAX_ANSWERED = 256
"""Updates whose answer is remembered, for the case that they come again."""

LAST_VERSION = 2**63 - 1
"""Of `common.messages.InForce`; a larger one would be in messages that nobody takes."""


class Updates:
    """The schedule of one epoch.

    Args:
        epoch: nanoseconds of the wall clock when this router began.
        updated: told of every schedule that is put in force.
    """

    def __init__(
        self, epoch: int, books: Books, planning: Planning, updated: Callable[[InForce], None]
    ) -> None:
        self.newest = 0
        """The newest version that was ever heard of, whether it could be used or not."""
        self._version = 0
        self._epoch = epoch
        self._born: float | None = None
        self._books = books
        self._planning = planning
        self._updated = updated
        self._answers: dict[tuple[Endpoint, Query], Scheduled] = {}

    @property
    def current(self) -> InForce:
        """What is in force."""
        return InForce(self._version, self._planning.scheduler.schedule)

    def tick(self, now: float) -> None:
        """Learn when this router began."""
        self._born = now if self._born is None else self._born

    def update(self, update: Update, now: float) -> Scheduled:
        """Change the schedule, whole or not at all; a repetition gets the same answer again."""
        key = update.reply, update.query
        if key not in self._answers:
            self.hear(update.known)
            hit("router.update")
            refusal = self._apply(update.change, now)
            hit("router.update")
            self._answers[key] = self.describe(update.query, now, refusal)
            if len(self._answers) > MAX_ANSWERED:
                del self._answers[next(iter(self._answers))]
        return self._answers[key]

    def describe(self, query: Query, now: float, refusal: str | None = None) -> Scheduled:
        """What is in force, and what has become of it."""
        regulation = self._planning.scheduler.regulation
        # The rate first: it closes periods that are over.
        rate = regulation.rate(now)
        return Scheduled(query, self._epoch, self.current, rate, regulation.load, refusal)

    def hear(self, known: InForce | None) -> None:
        """Take over what a gateway knows, if it is newer than all that was heard of."""
        if known is None or known.version <= self.newest:
            return
        self.newest = known.version
        try:
            self._use(known.schedule, known.version)
        except RequestFailed:
            # This router's latency model is another one; its own schedule stays.
            return

    def newer(self, version: int) -> InForce | None:
        """What is in force, for a gateway that knows only that version."""
        return self.current if version < self._version else None

    def _apply(self, change: ScheduleChange, now: float) -> str | None:
        """Why the change cannot be made; None when it has been."""
        if change == ScheduleChange():
            return None
        try:
            schedule = changed(self._planning.scheduler.schedule, change)
            self._check(schedule, now)
            self._use(schedule, self._next_version(now))
        except ValidationError as error:
            return ": ".join(in_words(error))[:2048]
        except RequestFailed as error:
            return str(error)[:2048]
        return None

    def _use(self, schedule: Schedule, version: int) -> None:
        self._planning.update(schedule)
        self._version = self.newest = version
        self._updated(self.current)

    def _next_version(self, now: float) -> int:
        lived = now - self._born if self._born is not None else 0.0
        return min(max(self.newest + 1, self._epoch + int(lived * 1e9)), LAST_VERSION)

    def _check(self, schedule: Schedule, now: float) -> None:
        """Refuse what would leave all that waits, and all that comes, without any plan."""
        curves, registry = self._planning.scheduler.model.curves, self._books.registry
        needed = min((size for size in sizes_of(schedule) if size in curves), default=0)
        there = len(registry.serving("prefill-worker"))
        if needed > there > 0 and not registry.is_growing(now):
            key = "policy" if schedule.fixed_size else "sp_size_candidates"
            raise RequestFailed(f"{key}: {needed} prefill instances are needed, {there} are there")
