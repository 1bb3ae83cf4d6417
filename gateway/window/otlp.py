"""Exports spans with OpenTelemetry's own SDK, in its own thread; the package is optional."""

from threading import Thread
from typing import Any

from common.errors import ConfigError
from gateway.window.spans import Span

QUEUE = 4096
"""Spans that wait to be exported; more are dropped."""
TIMEOUT = 5.0
"""Seconds for the collector to take a batch."""
FLUSH = 2.0
"""Seconds for the last spans, when the gateway ends."""


class Otlp:
    """Hands spans to the SDK, which sends them in the background.

    Args:
        url: of a collector, such as http://127.0.0.1:4318.
        name: of this gateway.

    Raises:
        ConfigError: the SDK is not installed, or the URL is none.
    """

    def __init__(self, url: str, name: str) -> None:
        if not url.startswith(("http://", "https://")):
            raise ConfigError("gateway.otlp: a URL such as http://127.0.0.1:4318 is needed")
        try:
            from opentelemetry import trace
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
            from opentelemetry.sdk.resources import Resource
            from opentelemetry.sdk.trace import TracerProvider
            from opentelemetry.sdk.trace.export import BatchSpanProcessor
            from opentelemetry.trace.propagation.tracecontext import (
                TraceContextTextMapPropagator,
            )
        except ImportError:
            what = "gateway.otlp: OpenTelemetry is missing; pip install 'tetris-serve[otlp]'"
            raise ConfigError(what) from None
        self._trace: Any = trace
        self._propagator = TraceContextTextMapPropagator()
        resource = Resource.create({"service.name": "tetris", "service.instance.id": name})
        self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        self._exporter: Any = OTLPSpanExporter(f"{url.rstrip('/')}/v1/traces", timeout=TIMEOUT)
        processor = BatchSpanProcessor(self._exporter, max_queue_size=QUEUE)
        self._provider.add_span_processor(processor)
        self._tracer = self._provider.get_tracer("tetris")

    def export(self, span: Span, traceparent: str | None) -> None:
        """Queue a request's span with all that is in it, below the client's own if it has one."""
        carrier = {} if traceparent is None else {"traceparent": traceparent}
        self._put(span, self._propagator.extract(carrier), is_root=True)

    def close(self) -> None:
        """Send what is left, if it goes quickly."""
        flushing = Thread(target=self._provider.shutdown, daemon=True)
        flushing.start()
        flushing.join(FLUSH)
        if flushing.is_alive():
            # It would try again for a while.
            self._exporter.shutdown()

    def _put(self, span: Span, context: Any, *, is_root: bool) -> None:
        kind = self._trace.SpanKind.SERVER if is_root else self._trace.SpanKind.INTERNAL
        made = self._tracer.start_span(
            span.name,
            context,
            kind,
            attributes=dict(span.attributes),
            start_time=_nanoseconds(span.start),
        )
        if span.failed:
            made.set_status(self._trace.StatusCode.ERROR)
        inside = self._trace.set_span_in_context(made, context)
        for child in span.children:
            self._put(child, inside, is_root=False)
        made.end(_nanoseconds(max(span.start, span.end)))


def _nanoseconds(seconds: float) -> int:
    return int(1e9 * max(0.0, seconds))
