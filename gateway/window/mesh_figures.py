"""Figures of the mesh's members and its schedule, from what the router says every second.

Series of instances are as many as there are members: those of who has left are dropped.
"""

from collections.abc import Iterable
from math import nan

from prometheus_client import Gauge

from common.events import MeshState
from common.metrics import Metrics


class MeshFigures:
    """The mesh as the router last described it."""

    def __init__(self, metrics: Metrics) -> None:
        gauge, each = metrics.gauge, ["instance"]
        self._delay = gauge(
            "tetris_queuing_delay_seconds",
            "Until a prefill instance has finished all that is planned on it.",
            each,
        )
        self._busy = gauge(
            "tetris_instance_busy", "Share of time in which a prefill instance computed.", each
        )
        self._fill = gauge("tetris_kv_fill", "Used share of KV slots, 0 to 1.", [*each, "role"])
        self._batch = gauge("tetris_decode_batch", "Requests in a decode batch.", each)
        self._drift = gauge(
            "tetris_latency_drift",
            "Measured over predicted seconds of the last chunks of an SP size.",
            ["sp"],
        )
        self._lent = gauge("tetris_backends_in_use", "Backends lent.")
        self._backends = gauge("tetris_backends", "Backends there are.")
        self._handshakes = gauge("tetris_waiting_handshakes", "Handshakes that wait for a backend.")
        self._oldest = gauge(
            "tetris_oldest_handshake_seconds", "Age of the oldest handshake that waits."
        )
        self._rate = gauge("tetris_improvement_rate", "Improvement rate in force.")
        self._load = gauge(
            "tetris_load", "Requests per second in the last whole period; NaN before its end."
        )
        self._shown: dict[Gauge, set[tuple[str, ...]]] = {}

    def take(self, state: MeshState) -> None:
        """Show a new state, and nothing of who is not in it."""
        prefill, decode = state.prefill, state.decode
        self._show(self._delay, (((m.name,), m.delay) for m in prefill))
        self._show(self._busy, (((m.name,), m.busy) for m in prefill))
        fills = [((m.name, "prefill"), m.used / max(m.total, 1)) for m in prefill]
        fills += [((m.name, "decode"), m.used / max(m.total, 1)) for m in decode]
        self._show(self._fill, fills)
        self._show(self._batch, (((m.name,), float(m.active)) for m in decode))
        self._show(self._drift, (((str(drift.size),), drift.ratio) for drift in state.drift))
        self._lent.set(sum(broker.lent for broker in state.brokers))
        self._backends.set(sum(broker.backends for broker in state.brokers))
        self._handshakes.set(sum(broker.waiting for broker in state.brokers))
        self._oldest.set(max((broker.oldest for broker in state.brokers), default=0.0))
        self._rate.set(state.rate)
        self._load.set(nan if state.load is None else state.load)

    def _show(self, gauge: Gauge, values: Iterable[tuple[tuple[str, ...], float]]) -> None:
        shown = set[tuple[str, ...]]()
        for labels, value in values:
            gauge.labels(*labels).set(value)
            shown.add(labels)
        for gone in self._shown.get(gauge, set()) - shown:
            gauge.remove(*gone)
        self._shown[gauge] = shown
