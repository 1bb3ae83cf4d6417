from pathlib import Path

import structlog
from msgspec import structs
from structlog.testing import capture_logs

from common.latency import Curve, LatencyModel
from services.router.latency_store import LatencyStore, key_of
from tests.services.router.mesh import hello

MODEL = LatencyModel.load("a100-llama3-8b")


def test_what_was_kept_is_found_by_the_next_router(tmp_path: Path) -> None:
    log = structlog.get_logger()
    LatencyStore(tmp_path / "latency", log).save("k", MODEL, "Measured.\nHere.")
    found = LatencyStore(tmp_path / "latency", log).load("k", MODEL.sizes)
    assert found is not None
    assert found.curves == MODEL.curves
    assert (tmp_path / "latency" / "k.toml").read_text().startswith("# Measured.\n# Here.\n")
    assert LatencyStore(tmp_path / "latency", log).load("other", MODEL.sizes) is None


def test_a_broken_file_is_told_ignored_and_replaced(tmp_path: Path) -> None:
    store = LatencyStore(tmp_path, structlog.get_logger())
    for text in ("[sizes.1\na = ", "[sizes.1]\na = 1\nb = 1\nc = 0\nd = 0\n", "\0"):
        (tmp_path / "k.toml").write_text(text)
        with capture_logs() as logs:
            assert store.load("k", MODEL.sizes) is None
        assert [line["event"] for line in logs] == ["a kept latency model is of no use"]
        assert "k.toml" in logs[0]["reason"]
        store.save("k", MODEL, "")
        assert store.load("k", MODEL.sizes) is not None


def test_a_directory_that_cannot_be_written_costs_a_line_in_the_log(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    store = LatencyStore(tmp_path / "file" / "latency", structlog.get_logger())
    with capture_logs() as logs:
        store.save("k", MODEL, "")
        assert store.load("k", MODEL.sizes) is None
    assert [line["event"] for line in logs] == ["the latency model is not kept"]


def test_without_a_directory_nothing_is_kept() -> None:
    store = LatencyStore(None)
    store.save("k", MODEL, "")
    assert store.load("k", MODEL.sizes) is None


def test_a_key_names_device_model_dtype_and_prior_but_no_node_or_process() -> None:
    one = structs.replace(hello("prefill-worker", "p0"), device="EPYC")
    key = key_of(one, MODEL)
    assert key.startswith("float32-")
    same = structs.replace(hello("prefill-worker", "p9", 7, total=1), device="EPYC", node="other")
    assert key_of(same, MODEL) == key
    assert one.layout is not None
    others = {
        key_of(structs.replace(one, device="A100"), MODEL),
        key_of(structs.replace(one, model=structs.replace(one.model, fingerprint="x")), MODEL),
        key_of(structs.replace(one, layout=structs.replace(one.layout, dtype="bfloat16")), MODEL),
        key_of(one, LatencyModel({1: Curve(1, 1, 1, 1)})),
    }
    assert len(others | {key}) == 5
