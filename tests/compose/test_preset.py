import importlib.resources
from pathlib import Path

import pytest

from common.errors import ConfigError
from compose import preset

NAMES = ["cpu", "dev", "docker"]


@pytest.mark.parametrize("name", NAMES)
def test_a_shipped_preset_is_complete_and_survives_writing(name: str, tmp_path: Path) -> None:
    config = preset.load(preset.find(name), {"mesh": {"name": 'a "quoted" \\ name'}})
    copy = tmp_path / "copy.toml"
    copy.write_text(preset.dump(config), encoding="utf-8")
    assert preset.load(copy, {}) == config
    assert config.mesh.name == 'a "quoted" \\ name'


def test_the_shipped_presets_are_these() -> None:
    files = importlib.resources.files("compose") / "presets"
    assert sorted(file.name for file in files.iterdir()) == [f"{name}.toml" for name in NAMES]


def test_only_the_preset_for_tests_lets_requests_dictate_their_plans() -> None:
    allowed = {
        name: preset.load(preset.find(name), {}).gateway.allow_forced_plans for name in NAMES
    }
    assert allowed == {"cpu": False, "dev": True, "docker": False}


def test_the_default_preset_shows_every_key_with_its_default() -> None:
    text = preset.find("cpu").read_text(encoding="utf-8")
    shown = preset.load(preset.find("cpu"), {})
    bare = {"path": shown.model.path, "name": shown.model.name, "dtype": shown.model.dtype}
    written = type(shown)(model=type(shown.model)(**bare))
    assert shown == written
    keys = {line.lstrip("# ").split(" = ")[0] for line in text.splitlines() if " = " in line}
    for table in preset.msgspec.to_builtins(written).values():
        assert set(table) <= keys


def test_overrides_replace_keys_and_none_leaves_them() -> None:
    config = preset.load(preset.find("cpu"), {"gateway": {"port": 9, "host": None}})
    assert (config.gateway.port, config.gateway.host) == (9, "127.0.0.1")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('[model]\npath = "p"\n', r"missing required field `name` - at `\$\.model`"),
        ('[model]\npath = "p"\nname = "n"\ncolour = 1\n', r"unknown field `colour`"),
        ('[model]\npath = "p"\nname = "n"\n[gateway]\nport = "x"\n', r"\$\.gateway\.port"),
        ('[model]\npath = "p"\nname = "n"\n[gateway]\nport = 70000\n', r"\$\.gateway\.port"),
        ("path = 1\n", "path stands outside of a table"),
        ("path =", "Invalid value"),
    ],
)
def test_a_wrong_preset_is_refused_with_file_and_key(
    text: str, reason: str, tmp_path: Path
) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=f"mine.toml: .*{reason}"):
        preset.load(file, {})


def test_an_unknown_preset_is_refused_with_the_known_names() -> None:
    with pytest.raises(ConfigError, match="cpu, dev, docker"):
        preset.find("nope")
