"""How long a request took, under the names that benchmarks read."""

from collections.abc import Sequence

from msgspec import Struct

from gateway.mesh.call import Call


class Metrics(Struct, frozen=True):
    """Milliseconds; None for what is not known, or where there was nothing to measure."""

    time_to_first_token_ms: float | None
    """From the request's arrival at this gateway to the first token of any choice."""
    generation_time_ms: float | None
    """From there to the last token of all."""
    queue_time_ms: float | None
    """Of the choice that began first: what it waited for its plan and its turn."""
    mean_itl_ms: float | None
    """Between two tokens of one choice."""
    tokens_per_second: float | None
    """Of all choices together, after the first token."""


def measure(calls: Sequence[Call]) -> Metrics:
    """The times of one request's calls."""
    spans = [
        (call.first, call.last, call)
        for call in calls
        if call.first is not None and call.last is not None
    ]
    if not spans:
        return Metrics(None, None, None, None, None)
    first, _, earliest = min(spans, key=lambda span: span[0])
    total = max(last for _, last, _ in spans) - first
    gaps = sum(len(call.stream.emitted) - 1 for *_, call in spans)
    tokens = sum(len(call.stream.emitted) for *_, call in spans)
    between = sum(last - begun for begun, last, _ in spans)
    return Metrics(
        time_to_first_token_ms=_ms(first - earliest.arrival),
        generation_time_ms=_ms(total),
        queue_time_ms=None if earliest.queued is None else _ms(earliest.queued),
        mean_itl_ms=_ms(between / gaps) if gaps else None,
        tokens_per_second=round((tokens - 1) / total, 3) if total > 0 else None,
    )


def _ms(seconds: float) -> float:
    return round(1000 * seconds, 3)
