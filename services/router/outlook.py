"""What the router's books say of the TTFT of whoever comes next: they make the forecast.

Under an order of arrival the queue that was thought through is kept and gets newcomers added, so
that a Submit costs two plans however many wait. What happens meanwhile as it was thought needs no
other forecast, and the rest is seen to twice a second.
"""

from collections.abc import Iterator

from services.router.books import Books
from services.router.forecast import Expected, Forecast, Needs, Release, Room
from services.router.planning import Planning
from services.router.requests import Request

REFRESH = 0.5
"""Seconds for which a forecast is kept."""
NEAR = 64
"""Requests that are planned in thought where the order is another one for every newcomer."""
LATE = 0.25
"""Share of its usual time that whatever is late is expected to take yet."""


class Outlook:
    """Predicts first tokens."""

    def __init__(self, books: Books, planning: Planning) -> None:
        self._books = books
        self._planning = planning
        self._kept: Forecast[Request] | None = None
        self._made = 0.0
        self._version: tuple[object, ...] = ()

    def expect(self, request: Request, now: float) -> Expected | None:
        """The first token of a request that joins the queue now; None where nobody knows."""
        return self._forecast(request, now).expect(request, now)

    def joined(self, request: Request) -> None:
        """A request is in the queue, as was just asked."""
        if self._kept is not None and not request.is_retry:
            self._kept.book(request)

    def alone(self, request: Request, now: float) -> float | None:
        """Seconds until its first token if nothing else were in the mesh."""
        books, scheduler = self._books, self._planning.scheduler
        _, view = self._planning.line(now)
        idle = view.idle()
        policy = scheduler.policy(0, idle, now)
        plan = scheduler.plan(request, idle, books.memory.totals(), policy)
        return None if plan is None else plan.ttft

    def _forecast(self, request: Request, now: float) -> Forecast[Request]:
        schedule = self._planning.scheduler.schedule
        is_by_arrival = not self._planning.scheduler.is_late_binding or (
            schedule.priced.order == "arrival"
        )
        if request.is_retry or not is_by_arrival:
            self._kept = None
            return self._make(now, request)
        version = (self._books.registry.version, schedule)
        is_stale = version != self._version or now - self._made > REFRESH
        if self._kept is None or is_stale or not self._books.requests.num_waiting:
            self._kept, self._made, self._version = self._make(now, None), now, version
        return self._kept

    def _make(self, now: float, request: Request | None) -> Forecast[Request]:
        """From the books of now: behind everybody, or where a request's place would be."""
        books, planning = self._books, self._planning
        queue, view = planning.line(now)
        stay = books.departures.stay
        needs = Needs[Request](
            planning.decode_slots,
            books.departures.handover,
            lambda one: stay(one.submit.ending.max_tokens),
        )
        room = Room(
            books.memory.free(),
            books.placement.left(planning.decode),
            lambda: self._releases(now),
        )
        forecast = Forecast(planning.scheduler, (view, now), room, needs, len(queue))
        if request is None:
            forecast.fold(queue)
        else:
            forecast.fold(self._before(request, queue, now), NEAR)
        return forecast

    def _before(self, request: Request, queue: list[Request], now: float) -> list[Request]:
        """Those of the queue who start before a request."""
        head = [one for one in queue if one.is_retry]
        if request.is_retry:
            return head
        in_order = list(self._planning.scheduler.ordered([*queue, request], now))
        return in_order[: in_order.index(request)]

    def _releases(self, now: float) -> Iterator[Release]:
        """What is held, and when it comes free."""
        books = self._books
        ends, departures = books.pool.ends(now), books.departures
        for name, owner, slots in books.memory.promises:
            end = ends.get(owner) or departures.since(owner, name) or now
            at = _due(end + departures.handover, departures.handover, now)
            yield Release(at, name, slots)
        for request in books.requests.live:
            if request.decode is not None and request.expected is not None:
                stay = departures.stay(request.submit.ending.max_tokens)
                end = ends.get(request.owner, request.expected)
                slots = self._planning.decode_slots(request)
                yield Release(_due(end + stay, stay, now), request.decode, slots)


def _due(at: float, seconds: float, now: float) -> float:
    return at if at > now else now + LATE * seconds
