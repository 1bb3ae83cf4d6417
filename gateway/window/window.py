"""What this gateway knows of every decision: the router's events, and its own requests' journeys.

It listens to the loop that reads the mesh, and nothing that it does is needed for serving.
"""

from collections import deque

from common.clock import Clock
from common.events import Happening, MeshState, Planned
from common.messages import ControlMessage, Events
from gateway.figures import Figures
from gateway.window.history import History
from gateway.window.journeys import Journey, Journeys
from gateway.window.otlp import Otlp
from gateway.window.spans import span_of

SETTLE = 2.0
"""Seconds after a request's end in which the last events of it may still come."""
MAX_SETTLING = 4096
AT_ONCE, AT_END = 10, 500
"""Requests whose spans are made in one go: each takes one or two milliseconds."""


class Window:
    """Takes events, and shows them in the figures, and as spans if somebody collects them."""

    def __init__(
        self, clock: Clock, figures: Figures, journeys: Journeys, otlp: Otlp | None = None
    ) -> None:
        self.clock = clock
        self.history = History()
        self.journeys = journeys
        self._figures = figures
        self._otlp = otlp
        self._settling: deque[Journey] = deque(maxlen=MAX_SETTLING)
        if otlp is not None:
            journeys.on_end = self._settling.append

    def receive(self, message: ControlMessage) -> bool:
        """Take events; False when the message is of another kind."""
        if not isinstance(message, Events):
            return False
        before, now = self.history.lost, self.clock.now()
        for event in self.history.take(message, now):
            self._see(event)
        self._figures.events_lost.inc(self.history.lost - before)
        self._export(now - SETTLE, AT_ONCE)
        return True

    def close(self) -> None:
        """Export what is left."""
        if self._otlp is not None:
            self._export(float("inf"), AT_END)
            self._otlp.close()

    def _see(self, event: Happening) -> None:
        if isinstance(event, Planned):
            self.journeys.planned(event)
        elif isinstance(event, MeshState):
            self._figures.described(event)

    def _export(self, until: float, limit: int) -> None:
        for _ in range(min(limit, len(self._settling))):
            journey = self._settling[0]
            if self._otlp is None or journey.ended is None or journey.ended > until:
                break
            self._settling.popleft()
            span = span_of(journey, self.history.of(journey.name))
            self._otlp.export(span, journey.origin.traceparent)
