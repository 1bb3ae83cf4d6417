import pytest

from common.metrics import Metrics
from gateway.figures import Figures
from gateway.window.standard_figures import rejection, up_to


def test_token_counts_are_told_in_steps_of_1_2_5_up_to_the_longest() -> None:
    assert up_to(1) == (1.0,)
    assert up_to(100) == (1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0)
    assert up_to(4999)[-1] == 2000.0


@pytest.mark.parametrize(
    ("status", "reason"), [(503, "overload"), (429, "overload"), (400, "too_large"), (504, "other")]
)
def test_rejections_have_few_reasons(status: int, reason: str) -> None:
    assert rejection(status) == reason


def test_names_of_others_can_be_left_out() -> None:
    metrics = Metrics()
    figures = Figures(metrics, "tiny", compat="none")
    figures.ttft.observe(1.0)
    figures.ended("stop")
    text = metrics.render().decode()
    assert "vllm:" not in text
    assert "tetris_ttft_component_seconds" in text
