from common.clock import Clock
from common.messages import Accepted
from common.metrics import Metrics
from gateway.doors.origin import CURRENT, Origin
from gateway.figures import Figures
from gateway.window.journeys import Journeys
from gateway.window.spans import Span
from gateway.window.window import AT_ONCE, SETTLE, Window
from tests.gateway.desk import Time
from tests.gateway.happenings import mesh_state, said, story


def window(clock: Clock | None = None) -> tuple[Window, Metrics]:
    metrics = Metrics()
    figures = Figures(metrics, "tiny")
    return Window(clock or Time(), figures, Journeys(figures)), metrics


def test_events_are_taken_and_what_is_missing_is_counted() -> None:
    seen, metrics = window()
    assert seen.receive(said(0, *story("r", 1.0)))
    assert seen.receive(said(100, mesh_state(2.0)))
    assert not seen.receive(Accepted("r", 1))
    missing = 100 - len(story("r", 1.0))
    assert f"tetris_events_lost_total {missing}.0" in metrics.render().decode()
    assert (
        'vllm:kv_cache_usage_perc{engine="0",model_name="tiny"} 0.25' in metrics.render().decode()
    )


def test_plans_of_other_gateways_requests_are_history_alone() -> None:
    seen, metrics = window()
    seen.receive(said(0, *story("r", 1.0)))
    assert len(seen.history.of("r")) == len(story("r", 1.0))
    assert 'tetris_predicted_ttft_seconds_count{plan="chosen"} 0.0' in metrics.render().decode()


class Collected:
    """In the place of an exporter."""

    def __init__(self) -> None:
        self.spans: list[tuple[Span, str | None]] = []
        self.is_closed = False

    def export(self, span: Span, traceparent: str | None) -> None:
        self.spans.append((span, traceparent))

    def close(self) -> None:
        self.is_closed = True


def test_a_request_is_exported_when_its_last_events_had_time_to_come() -> None:
    time, collected = Time(), Collected()
    figures = Figures(Metrics(), "tiny")
    journeys = Journeys(figures)
    seen = Window(time, figures, journeys, collected)
    for name in ("a", "b"):
        CURRENT.set(Origin(name, "parent-" + name))
        journeys.opened(name, 10, time.at, time.at, time.wall())
    CURRENT.set(None)
    journeys.closed("a", "length", 3, time.at + 1, time.at + 1)
    seen.receive(said(0, *story("a", time.wall())))
    assert collected.spans == []
    time.at += 1 + SETTLE
    seen.receive(said(len(story("a", 0.0)), mesh_state(1.0)))
    ((span, parent),) = collected.spans
    assert (span.attributes["tetris.request"], parent) == ("a", "parent-a")
    assert [child.name for child in span.children] == ["chunk", "chunk", "transfer", "decode"]
    journeys.closed("b", "abort", 0, time.at, time.at)
    seen.close()
    assert [parent for _, parent in collected.spans] == ["parent-a", "parent-b"]
    assert collected.is_closed


def test_many_requests_that_end_together_are_exported_bit_by_bit() -> None:
    time, collected = Time(), Collected()
    journeys = Journeys(Figures(Metrics(), "tiny"))
    seen = Window(time, Figures(Metrics(), "tiny"), journeys, collected)
    for number in range(AT_ONCE + 3):
        journeys.opened(f"r{number}", 10, time.at, time.at, time.wall())
        journeys.closed(f"r{number}", "stop", 1, time.at, time.at)
    time.at += SETTLE
    seen.receive(said(0, mesh_state(1.0)))
    assert len(collected.spans) == AT_ONCE
    seen.receive(said(1, mesh_state(2.0)))
    assert len(collected.spans) == AT_ONCE + 3
