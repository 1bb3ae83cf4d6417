"""Figures of one process, in a Prometheus registry of its own.

Label values come out of fixed sets (message types, reasons), never out of what a peer sent.
"""

from collections.abc import Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest


class Metrics:
    """The registry, the counters of the kernel, and makers for a service's own."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self.sent = self.counter(
            "tetris_messages_sent", "Control messages handed to a peer's socket.", ["type"]
        )
        self.received = self.counter(
            "tetris_messages_received", "Valid control messages received.", ["type"]
        )
        self.dropped = self.counter(
            "tetris_messages_dropped", "Control messages dropped, either way.", ["reason"]
        )

    def counter(self, name: str, text: str, labels: Sequence[str] = ()) -> Counter:
        """A counter; its series is called `name`_total."""
        return Counter(name, text, labels, registry=self._registry)

    def gauge(self, name: str, text: str, labels: Sequence[str] = ()) -> Gauge:
        """A value that goes up and down."""
        return Gauge(name, text, labels, registry=self._registry)

    def histogram(
        self, name: str, text: str, buckets: Sequence[float], labels: Sequence[str] = ()
    ) -> Histogram:
        """A distribution over `buckets`, ascending, without the last infinite one."""
        return Histogram(name, text, labels, buckets=buckets, registry=self._registry)

    def render(self) -> bytes:
        """The Prometheus text format."""
        return generate_latest(self._registry)
