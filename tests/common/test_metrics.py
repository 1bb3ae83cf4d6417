from common.metrics import Metrics


def test_each_process_renders_its_own_figures_alone():
    first, second = Metrics(), Metrics()
    first.sent.labels("Hello").inc(3)
    first.dropped.labels("field").inc()
    assert b'tetris_messages_sent_total{type="Hello"} 3.0' in first.render()
    assert b'tetris_messages_dropped_total{reason="field"} 1.0' in first.render()
    assert b"Hello" not in second.render()


def test_a_service_adds_figures_of_its_own():
    metrics = Metrics()
    metrics.counter("tetris_chunks", "Chunks.", ["size"]).labels("4").inc()
    metrics.gauge("tetris_free_slots", "Slots.").set(17)
    metrics.histogram("tetris_step_seconds", "Steps.", [0.1, 1.0]).observe(0.5)
    lines = metrics.render().decode().splitlines()
    assert 'tetris_chunks_total{size="4"} 1.0' in lines
    assert "tetris_free_slots 17.0" in lines
    assert 'tetris_step_seconds_bucket{le="0.1"} 0.0' in lines
    assert 'tetris_step_seconds_bucket{le="1.0"} 1.0' in lines
    assert 'tetris_step_seconds_bucket{le="+Inf"} 1.0' in lines
