from msgspec import structs

from common.metrics import Metrics
from gateway.window.mesh_figures import MeshFigures
from tests.gateway.happenings import mesh_state


def test_members_are_shown_and_those_that_left_are_dropped() -> None:
    metrics = Metrics()
    figures = MeshFigures(metrics)
    figures.take(mesh_state(1.0))
    text = metrics.render().decode()
    for line in (
        'tetris_queuing_delay_seconds{instance="prefill-3"} 1.5',
        'tetris_instance_busy{instance="prefill-0"} 0.25',
        'tetris_kv_fill{instance="prefill-2",role="prefill"} 0.2',
        'tetris_kv_fill{instance="decode-0",role="decode"} 0.25',
        'tetris_decode_batch{instance="decode-0"} 2.0',
        'tetris_latency_drift{sp="4"} 0.9',
        "tetris_backends_in_use 3.0",
        "tetris_backends 8.0",
        "tetris_waiting_handshakes 2.0",
        "tetris_oldest_handshake_seconds 1.5",
        "tetris_improvement_rate 0.1",
        "tetris_load 2.5",
    ):
        assert line + "\n" in text
    gone = structs.replace(
        mesh_state(2.0, ["prefill-3"]), decode=(), brokers=(), drift=(), load=None
    )
    figures.take(gone)
    text = metrics.render().decode()
    assert 'instance="prefill-3"' in text
    for name in ("prefill-0", "prefill-2", "decode-0", 'sp="4"'):
        assert name not in text
    assert "tetris_oldest_handshake_seconds 0.0\n" in text
    assert "tetris_load NaN\n" in text


def test_series_stay_as_many_as_there_are_members() -> None:
    metrics = Metrics()
    figures = MeshFigures(metrics)
    for life in range(50):
        figures.take(mesh_state(float(life), [f"prefill-{life}-{i}" for i in range(4)]))
    lines = metrics.render().decode().splitlines()
    assert sum(line.startswith("tetris_instance_busy{") for line in lines) == 4
    assert sum(line.startswith("tetris_kv_fill{") for line in lines) == 5
