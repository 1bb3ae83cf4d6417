"""Figures of where requests' time went, and of how well it had been predicted."""

from common.events import Planned
from common.metrics import Metrics
from gateway.window.components import FIRST, SECOND, Parts
from gateway.window.standard_figures import TTFT

_RATIO = (0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 1.0, 1.05, 1.1, 1.25, 1.5, 2.0, 3.0, 5.0, 10.0)


class JourneyFigures:
    """What is known of this gateway's requests beside what clients see."""

    def __init__(self, metrics: Metrics) -> None:
        first = metrics.histogram(
            "tetris_ttft_component_seconds",
            "Parts of the time to the first token; they add up to it.",
            TTFT,
            ["component"],
        )
        second = metrics.histogram(
            "tetris_second_token_component_seconds",
            "Parts of the time from the first token's sampling to the second token.",
            TTFT,
            ["component"],
        )
        self._first = {part: first.labels(part) for part in FIRST}
        self._second = {part: second.labels(part) for part in SECOND}
        unattributed = metrics.counter(
            "tetris_unattributed", "Requests whose parts of a token's time got lost.", ["token"]
        )
        self.first_unattributed = unattributed.labels("first")
        self.second_unattributed = unattributed.labels("second")
        self._skew = metrics.counter(
            "tetris_clock_skew", "Times that clocks contradicted each other by more than 5 ms."
        )
        predicted = metrics.histogram(
            "tetris_predicted_ttft_seconds",
            "Predicted by a plan, from then on: the chosen one's, and that of the shadow policy.",
            TTFT,
            ["plan"],
        )
        self._chosen = predicted.labels("chosen")
        self._shadow = predicted.labels("shadow")
        self.ratio = metrics.histogram(
            "tetris_ttft_ratio", "Measured TTFT over the one that the plan had predicted.", _RATIO
        )

    def first(self, parts: Parts) -> None:
        """Where a TTFT went."""
        self._skewed(parts)
        for part in FIRST:
            self._first[part].observe(parts.seconds[part])

    def second(self, parts: Parts) -> None:
        """Where the time to a second token went."""
        self._skewed(parts)
        for part in SECOND:
            self._second[part].observe(parts.seconds[part])

    def planned(self, plan: Planned) -> None:
        """What was predicted."""
        self._chosen.observe(plan.ttft)
        if plan.shadow is not None:
            self._shadow.observe(plan.shadow)

    def _skewed(self, parts: Parts) -> None:
        if parts.skewed:
            self._skew.inc()
