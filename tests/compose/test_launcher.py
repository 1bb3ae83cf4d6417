import json
import os
import socket
from pathlib import Path

import pytest
from msgspec.structs import replace

from common.config import load
from common.errors import ConfigError
from compose import launcher
from compose.child import Turn
from compose.launcher import Options, commands, configure, counts, ready_text, up


def model(path: Path) -> str:
    path.mkdir()
    (path / "config.json").write_text("{}")
    return str(path)


def test_every_process_gets_its_own_name_and_configuration(tmp_path: Path) -> None:
    options = Options(prefill=3, decode=2, port=8123)
    config = configure(options)
    made = list(commands(options, config, tmp_path))
    names = [command.name for command in made]
    assert names == [
        "router",
        "kv-transfer",
        "gateway",
        *(f"prefill-worker-{index}" for index in range(3)),
        *(f"decode-worker-{index}" for index in range(2)),
    ]
    written = [load(tmp_path / f"{name}.toml") for name in names]
    assert [config.mesh.name for config in written] == names
    assert {config.gateway.port for config in written} == {8123}
    assert {config.log.format for config in written} == {"text"}
    assert len({config.mesh.router for config in written}) == 1


def test_prefill_yields_to_decode(tmp_path: Path) -> None:
    options = Options()
    made = commands(options, configure(options), tmp_path)
    polite = {command.name for command in made if "--nice" in command.argv}
    assert polite == {"prefill-worker-0", "prefill-worker-1"}


def test_streams_end_before_workers_and_the_router_goes_last(tmp_path: Path) -> None:
    options = Options(prefill=1)
    turns = {c.name: c.turn for c in commands(options, configure(options), tmp_path)}
    assert turns.pop("gateway") == Turn.FIRST
    assert turns.pop("router") == Turn.LAST
    assert set(turns.values()) == {Turn.MIDDLE}


def test_the_environment_of_a_child_cannot_undo_its_configuration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TETRIS_PORT", "9001")
    monkeypatch.setenv("TETRIS_ROUTER", "tcp://127.0.0.1:1")
    options = Options()
    config = configure(options)
    assert config.gateway.port == 9001
    assert config.mesh.router != "tcp://127.0.0.1:1"
    for command in commands(options, config, tmp_path):
        assert "TETRIS_PORT" not in command.environment
        assert "TETRIS_ROUTER" not in command.environment
        assert command.environment["OMP_NUM_THREADS"] == "1"
        assert command.environment["TMPDIR"] == str(tmp_path)


def test_a_local_model_is_served_under_the_name_of_its_directory(tmp_path: Path) -> None:
    path = model(tmp_path / "tiny-llama")
    config = configure(Options(model=path, dtype="bfloat16"))
    assert (config.model.path, config.model.name) == (path, "tiny-llama")
    assert config.model.dtype == "bfloat16"


def test_a_port_in_use_ends_the_start_before_anything_runs(
    tmp_path: Path,
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=rf"127\.0\.0\.1:{port} .*choose another --port"):
            up(Options(model=model(tmp_path / "m"), port=port))


def test_a_model_that_is_none_ends_the_start(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="neither 'smollm2' nor a directory"):
        up(Options(model=str(tmp_path), port=0))


def test_a_wrong_preset_names_file_and_key(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text('[model]\npath = "p"\nname = "n"\n[decode]\nmax_batch = 0\n')
    with pytest.raises(ConfigError, match=r"mine\.toml: decode\.max_batch"):
        up(Options(preset=str(file)))


def test_the_ready_line_has_a_request_that_a_shell_takes() -> None:
    config = configure(Options(port=8123, control_port=8124))
    text = ready_text(config, 4.25)
    assert text.startswith("ready in 4.2 s at http://127.0.0.1:8123")
    assert f"tetris status --url http://127.0.0.1:{config.gateway.control_port}\n" in text
    assert "curl -N http://127.0.0.1:8123/v1/chat/completions" in text
    body = text[text.index("-d '") + 4 : text.rindex("'")]
    assert json.loads(body)["model"] == "SmolLM2-135M-Instruct"


def test_all_emulated_workers_are_one_process(tmp_path: Path) -> None:
    options = Options(emulated=True)
    config = configure(options)
    made = list(commands(options, config, tmp_path))
    assert [c.name for c in made] == ["router", "kv-transfer", "gateway", "emulated-workers"]
    assert [c.turn for c in made] == [Turn.LAST, Turn.MIDDLE, Turn.FIRST, Turn.MIDDLE]
    written = load(tmp_path / "emulated-workers.toml")
    assert written == replace(config, mesh=replace(config.mesh, name="emulated-workers"))
    assert (written.model.path, written.model.name) == ("emulated", "Llama-3-8B")
    assert counts(options, config) == (16, 2)


def test_emulated_workers_are_counted_by_the_options_or_by_the_preset() -> None:
    options = Options(emulated=True, prefill=32, decode=5)
    config = configure(options)
    assert counts(options, config) == (32, 5)
    assert (config.emulated.num_prefill, config.emulated.decode) == (32, 5)
    same = configure(Options(preset="a100-llama3-8b", prefill=3))
    assert counts(Options(prefill=3), same) == (3, 2)
    assert counts(Options(), configure(Options())) == (2, 1)


def test_any_preset_can_be_emulated_and_is_never_measured() -> None:
    config = configure(Options(emulated=True, preset="cpu", port=8123))
    assert (config.model.path, config.model.name) == ("emulated", "SmolLM2-135M-Instruct")
    assert config.router.latency == "cpu-smollm2-135m"
    assert config.router.calibrate_seconds == 0.0
    assert (config.router.learn, config.gateway.port) == (True, 8123)


@pytest.mark.parametrize("given", [{"model": "smollm2"}, {"dtype": "bfloat16"}])
def test_what_is_emulated_has_no_model_of_its_own(given: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match="leave --model and --dtype out"):
        configure(Options(emulated=True, **given))  # type: ignore[arg-type]


def test_the_request_to_try_ends_where_no_model_ends_it() -> None:
    text = ready_text(configure(Options(emulated=True)), 1.0)
    body = json.loads(text[text.index("-d '") + 4 : text.rindex("'")])
    assert (body["model"], body["max_tokens"]) == ("Llama-3-8B", 64)


def test_the_private_directory_is_gone_after_a_failed_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    monkeypatch.setattr(launcher, "MODULE", "no.such.module")
    status = up(Options(model=model(tmp_path / "m"), port=0, control_port=0, prefill=1))
    assert status == 1
    assert sorted(os.listdir(tmp_path)) == ["m"]
