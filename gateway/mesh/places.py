"""Places for what this gateway serves at a time, from a request's body to its last byte."""

from collections.abc import Iterator
from contextlib import contextmanager

from common.service import Process
from gateway.errors import Refusal
from gateway.figures import Figures

MAX_OPEN = 4096
"""Open calls that a heartbeat can list."""


class Places:
    """As many as the configuration says; a request has one for each of its submissions."""

    def __init__(self, process: Process, figures: Figures) -> None:
        self.total = min(process.config.gateway.max_requests, MAX_OPEN)
        self.taken = 0
        self._process = process
        self._figures = figures

    @contextmanager
    def take(self, count: int = 1) -> Iterator[None]:
        """Take so many at once.

        Raises:
            Refusal: they are not all free, or this gateway is to end.
        """
        if self._process.stopping.is_set():
            raise Refusal(503, "The server is stopping.", retry_after=1.0)
        if self.taken + count > self.total:
            self._figures.standard.rejected("gateway_full")
            raise Refusal(503, "Too many open requests.", retry_after=1.0)
        self._add(count)
        try:
            yield
        finally:
            self._add(-count)

    def _add(self, count: int) -> None:
        self.taken += count
        self._figures.open.set(self.taken)
