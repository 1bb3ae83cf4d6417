from pathlib import Path

import pytest

from common.config import VARIABLES, Config, load
from common.errors import ConfigError

MODEL = '[model]\npath = "/models/tiny"\nname = "tiny"\n'


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in VARIABLES:
        monkeypatch.delenv(variable, raising=False)


def preset(folder: Path, text: str) -> Path:
    path = folder / "preset.toml"
    path.write_text(text)
    return path


def test_a_preset_fills_the_tree_and_the_rest_has_defaults(tmp_path: Path):
    config = load(
        preset(tmp_path, MODEL + "[schedule]\nsp_size_candidates = [1, 2]\n[mesh]\nheartbeat = 1\n")
    )
    assert config.model.name == "tiny"
    assert config.schedule.sp_size_candidates == (1, 2)
    assert config.mesh.heartbeat == 1.0
    assert config.gateway == Config(model=config.model).gateway


@pytest.mark.parametrize(
    ("text", "key", "what"),
    [
        (MODEL + "[mesh]\nrooter = 'x'", "mesh.rooter", "unknown field"),
        (MODEL + "[mesch]\nrouter = 'x'", "mesch", "unknown field"),
        ("[model]\npath = 'x'", "model.name", "missing required field"),
        ("", "model", "missing required field"),
        (MODEL + "[gateway]\nport = '80'", "gateway.port", "Expected `int`, got `str`"),
        (MODEL + "[gateway]\nport = 80.0", "gateway.port", "Expected `int`, got `float`"),
        (MODEL + "[gateway]\nport = 65536", "gateway.port", "<= 65535"),
        (MODEL + "[mesh]\nheartbeat = nan", "mesh.heartbeat", "Expected `float`"),
        (MODEL + "[mesh]\nlease = 0", "mesh.lease", "> 0.0"),
        (MODEL + "[gateway]\ncontrol_port = -1", "gateway.control_port", ">= 0"),
        (MODEL + "[gateway]\nmax_attempts = 0", "gateway.max_attempts", ">= 1"),
        (MODEL + "[mesh]\nname = 'two words'", "mesh.name", "matching regex"),
        (MODEL + "[schedule]\nsp_size_candidates = [0]", "schedule.sp_size_candidates[0]", ">= 1"),
        (MODEL + "[schedule]\npolicy = 'best'", "schedule.policy", "matching regex"),
        (MODEL + "[schedule.priced]\nbase = -1", "schedule.priced.base", ">= 0"),
        (MODEL + "dtype = 'int8'", "model.dtype", "Invalid enum value"),
        (MODEL + "[decode]\nbackends = 1025", "decode.backends", "<= 1024"),
        (MODEL + "[emulated]\nnodes = 0", "emulated.nodes", ">= 1"),
        (MODEL + "[emulated]\ninstances = 4", "emulated.instances", "unknown field"),
        ("model = 3", "model", "Expected `object`, got `int`"),
        (MODEL + "[log]\nlevel = 1979-05-27", "log.level", "Expected `str`"),
    ],
)
def test_what_cannot_be_served_is_refused_with_file_and_key(
    tmp_path: Path, text: str, key: str, what: str
):
    path = preset(tmp_path, text)
    with pytest.raises(ConfigError) as caught:
        load(path)
    assert str(caught.value).startswith(f"{path}: {key}: ")
    assert what in str(caught.value)


def test_a_file_that_cannot_be_read_is_refused_by_name(tmp_path: Path):
    with pytest.raises(ConfigError, match=r"missing\.toml: No such file"):
        load(tmp_path / "missing.toml")
    with pytest.raises(ConfigError, match="Is a directory"):
        load(tmp_path)
    with pytest.raises(ConfigError, match=r"preset\.toml: not TOML: Invalid value"):
        load(preset(tmp_path, "model = ["))
    (tmp_path / "latin.toml").write_bytes(b'name = "\xe9"')
    with pytest.raises(ConfigError, match=r"latin\.toml: not TOML"):
        load(tmp_path / "latin.toml")


def test_the_environment_overrides_the_file_and_the_caller_both(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    path = preset(
        tmp_path, MODEL + "[mesh]\nname = 'file'\nnode = 'file'\nrouter = 'tcp://file:1'\n"
    )
    monkeypatch.setenv("TETRIS_NAME", "environment")
    monkeypatch.setenv("TETRIS_NODE", "environment")
    monkeypatch.setenv("TETRIS_PORT", "8080")
    monkeypatch.setenv("TETRIS_MODEL_PATH", "/elsewhere")
    config = load(path, overrides={"mesh.node": "caller", "gateway.host": "0.0.0.0"})
    assert (config.mesh.name, config.mesh.node, config.mesh.router) == (
        "environment",
        "caller",
        "tcp://file:1",
    )
    assert (config.gateway.port, config.gateway.host, config.model.path) == (
        8080,
        "0.0.0.0",
        "/elsewhere",
    )


def test_every_variable_sets_its_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = preset(tmp_path, MODEL)
    for variable, key in VARIABLES.items():
        monkeypatch.setenv(variable, "7")
        section, name = key.split(".")
        assert str(getattr(getattr(load(path), section), name)) == "7"


@pytest.mark.parametrize(
    ("variable", "value", "key"),
    [
        ("TETRIS_PORT", "http", "gateway.port"),
        ("TETRIS_PORT", "70000", "gateway.port"),
        ("TETRIS_CONTROL_PORT", "door", "gateway.control_port"),
        ("TETRIS_NAME", "a b", "mesh.name"),
    ],
)
def test_a_wrong_variable_is_refused_by_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str, value: str, key: str
):
    monkeypatch.setenv(variable, value)
    with pytest.raises(ConfigError, match=f"environment variable {variable}: {key}: "):
        load(preset(tmp_path, MODEL))


def test_a_wrong_override_is_refused_as_such(tmp_path: Path):
    with pytest.raises(ConfigError, match=r"^override: mesh\.outbox: "):
        load(preset(tmp_path, MODEL), overrides={"mesh.outbox": 0})
    with pytest.raises(ConfigError, match=r"preset\.toml: mesh: "):
        load(preset(tmp_path, "mesh = 3\n" + MODEL), overrides={"mesh.outbox": 1})


@pytest.mark.parametrize("name", ["fastest", "fixed-sp", "fixed-sp:0", "cdsp "])
def test_the_name_of_the_shadow_policy_is_checked_at_the_start(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match=r"router\.shadow"):
        load(preset(tmp_path, f'{MODEL}[router]\nshadow = "{name}"\n'))
    good = preset(tmp_path, f'{MODEL}[router]\nshadow = "fixed-sp:4"\n')
    assert load(good).router.shadow == "fixed-sp:4"
