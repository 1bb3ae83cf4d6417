"""Dashboards depend on these names: whoever changes them changes the snapshot, and says so."""

from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from common.messages import ClusterState, Failed, Rejected
from common.metrics import Metrics
from gateway.errors import Refusal
from gateway.figures import Figures
from tests.gateway.desk import Desk
from tests.gateway.happenings import mesh_state

SNAPSHOT = Path(__file__).with_name("metrics.txt")


def families(metrics: Metrics) -> list[str]:
    """Each family with its type and labels; and its buckets, where it has some."""
    lines = []
    for family in text_string_to_metric_families(metrics.render().decode()):
        labels = sorted({label for sample in family.samples for label in sample.labels} - {"le"})
        bounds = dict.fromkeys(s.labels["le"] for s in family.samples if "le" in s.labels)
        name = family.name + ("_total" if family.type == "counter" else "")
        parts = [family.type, name, f"{{{','.join(labels)}}}", *bounds]
        if not name.endswith("_created"):
            lines.append(" ".join(parts))
    return sorted(lines)


def shown() -> Metrics:
    metrics = Metrics()
    figures = Figures(metrics, "tiny", max_len=131_072)
    figures.described(mesh_state(1.0))
    figures.mesh(ClusterState(5, 1, 1, 1, waiting=2, requests=7))
    for counter in (metrics.sent, metrics.received, figures.stray):
        counter.labels("Hello")
    metrics.dropped.labels("outbox")
    figures.refused.labels(503)
    return metrics


def test_names_types_labels_and_buckets_are_those_of_the_snapshot() -> None:
    assert families(shown()) == SNAPSHOT.read_text().splitlines()


def test_running_requests_are_those_that_have_a_plan() -> None:
    text = shown().render().decode()
    assert 'vllm:num_requests_running{engine="0",model_name="tiny"} 5.0' in text
    assert 'vllm:num_requests_waiting{engine="0",model_name="tiny"} 2.0' in text


def test_refusals_of_the_router_are_counted_by_reason() -> None:
    desk = Desk()
    for status in (503, 400):
        desk.open()
        desk.calls.receive(Rejected("r", 1, status, "no", retry_after=1.0))
        desk.close()
    text = desk.metrics.render().decode()
    labels = 'vllm:admission_rejections_total{engine="0",model_name="tiny",reason'
    assert f'{labels}="overload"}} 1.0' in text
    assert f'{labels}="too_large"}} 1.0' in text
    assert f'{labels}="gateway_full"}} 0.0' in text


def test_requests_for_which_there_is_no_place_are_counted() -> None:
    desk = Desk(max_requests=1)
    with desk.calls.place(), pytest.raises(Refusal), desk.calls.place():
        pass
    assert 'reason="gateway_full"} 1.0' in desk.metrics.render().decode()


def test_a_resumed_attempt_that_is_refused_is_no_request_that_was_not_taken_in() -> None:
    desk = Desk()
    desk.open()
    desk.calls.receive(Failed("r", 1, "decode", "gone", retryable=True))
    desk.calls.receive(Rejected("r", 2, 503, "no", retry_after=1.0))
    assert 'reason="overload"} 0.0' in desk.metrics.render().decode()


if __name__ == "__main__":
    SNAPSHOT.write_text("\n".join(families(shown())) + "\n")
