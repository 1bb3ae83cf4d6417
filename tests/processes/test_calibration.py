"""A real mesh measures how fast it is, and the next one of the same machine knows it."""

import json
import time
import urllib.request
from pathlib import Path

import pytest

from common.latency import LatencyModel
from compose.model_cache import DEFAULT_MODEL, ModelCache, default_directory
from tests.processes.real_mesh import PRESET, RealMesh, running_mesh

LIMIT = 60.0


def state(mesh: RealMesh) -> str:
    with urllib.request.urlopen(f"{mesh.control}/tetris/status", timeout=5) as answer:
        return str(json.load(answer)["latency"])


@pytest.mark.slow
def test_a_mesh_calibrates_itself_once_for_a_machine(tmp_path: Path) -> None:
    text = PRESET.read_text()
    assert "calibrate_seconds = 0.0" in text
    preset = tmp_path / "preset.toml"
    preset.write_text(text.replace("calibrate_seconds = 0.0", "calibrate_seconds = 6.0"))
    # Beside the cache that tests share, from which only the model is taken.
    model = ModelCache(default_directory(), lambda _: None).resolve(DEFAULT_MODEL)
    environment = {"TETRIS_CACHE": str(tmp_path / "cache")}

    def mesh():
        return running_mesh(
            "--prefill", "2", model=str(model), preset=preset, environment=environment
        )

    with mesh() as first:
        [done] = first.wait_for("calibrated", limit=LIMIT)
        assert done["seconds"] <= 6.5
        assert done["chunks"] >= 6
        assert state(first).startswith("calibrated in ")
    [file] = (tmp_path / "cache" / "latency").iterdir()
    assert file.name.startswith("float32-")
    assert LatencyModel.load(str(file)).sizes == (1, 2, 4, 8, 16)
    kept = file.read_text()
    with mesh() as second:
        second.wait_for("latency model found", limit=LIMIT)
        body = {"model": model.name, "prompt": [7] * 300, "max_tokens": 1}
        assert "choices" in second.complete(body)
        deadline = time.monotonic() + LIMIT
        while "measured in an earlier life" not in state(second):
            assert time.monotonic() < deadline, state(second)
            time.sleep(0.1)
        assert not second.events("calibrated")
    assert file.read_text() == kept
