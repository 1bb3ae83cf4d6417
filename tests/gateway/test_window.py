from common.clock import Clock
from common.messages import Accepted
from common.metrics import Metrics
from gateway.figures import Figures
from gateway.journeys import Journeys
from gateway.window import Window
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
