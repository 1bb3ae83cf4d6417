"""What this gateway knows of every decision: the router's events, and its own requests' journeys.

It listens to the loop that reads the mesh, and nothing that it does is needed for serving.
"""

from common.clock import Clock
from common.events import Happening, MeshState, Planned
from common.messages import ControlMessage, Events
from gateway.figures import Figures
from gateway.history import History
from gateway.journeys import Journeys


class Window:
    """Takes events, and shows them in the figures."""

    def __init__(self, clock: Clock, figures: Figures, journeys: Journeys) -> None:
        self.clock = clock
        self.history = History()
        self.journeys = journeys
        self._figures = figures

    def receive(self, message: ControlMessage) -> bool:
        """Take events; False when the message is of another kind."""
        if not isinstance(message, Events):
            return False
        before = self.history.lost
        for event in self.history.take(message, self.clock.now()):
            self._see(event)
        self._figures.events_lost.inc(self.history.lost - before)
        return True

    def _see(self, event: Happening) -> None:
        if isinstance(event, Planned):
            self.journeys.planned(event)
        elif isinstance(event, MeshState):
            self._figures.described(event)
