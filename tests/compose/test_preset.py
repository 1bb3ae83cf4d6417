import importlib.resources
import re
from pathlib import Path

import msgspec
import pytest

from common.config import Config, LogConfig, ModelConfig, load
from common.errors import ConfigError
from compose import preset

NAMES = ["a100-llama3-8b", "cpu", "dev", "docker"]
ODD = 'a "quoted" \\ name'


@pytest.mark.parametrize("name", NAMES)
def test_a_shipped_preset_is_complete_and_survives_writing(name: str, tmp_path: Path) -> None:
    config = load(preset.find(name), {"gateway.host": ODD})
    copy = tmp_path / "copy.toml"
    copy.write_text(preset.dump(config), encoding="utf-8")
    assert load(copy) == config
    assert config.gateway.host == ODD


def test_the_shipped_presets_are_these() -> None:
    files = importlib.resources.files("compose") / "presets"
    assert sorted(file.name for file in files.iterdir()) == [f"{name}.toml" for name in NAMES]


def test_only_the_preset_for_tests_lets_requests_dictate_their_plans() -> None:
    allowed = {name: load(preset.find(name)).gateway.allow_forced_plans for name in NAMES}
    assert allowed == {name: name == "dev" for name in NAMES}


def test_the_default_preset_shows_every_key_with_its_default() -> None:
    text = preset.find("cpu").read_text(encoding="utf-8")
    shown = load(preset.find("cpu"))
    bare = {"path": shown.model.path, "name": shown.model.name, "dtype": shown.model.dtype}
    written = Config(model=ModelConfig(**bare), log=LogConfig(format="text"))
    assert shown == written
    keys = {line.lstrip("# ").split(" = ")[0] for line in text.splitlines() if " = " in line}
    headers = re.findall(r"^\[(.+?)\]", text, re.MULTILINE)
    keys |= {header.rpartition(".")[2] for header in headers}
    for table in msgspec.to_builtins(written).values():
        assert set(table) <= keys


def test_an_unknown_preset_is_refused_with_the_known_names() -> None:
    with pytest.raises(ConfigError, match="cpu, dev, docker"):
        preset.find("nope")
