import importlib.util
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest

from common import keys
from common.messages import Role
from compose.cli import MODULES, main

ROOT = Path(__file__).resolve().parents[2]


def outcome(argv: list[str]) -> int | str | None:
    """The exit status of a command, however it ends."""
    try:
        return main(argv)
    except SystemExit as end:
        return end.code


@pytest.mark.parametrize(
    ("argv", "reason"),
    [
        ([], "COMMAND"),
        (["nonsense"], "nonsense"),
        (["up", "--prefill", "0"], "between 1 and 64"),
        (["up", "--prefill", "many"], "--prefill"),
        (["up", "--dtype", "int8"], "--dtype"),
        (["up", "--colour"], "--colour"),
        (["up", "--preset", "nope"], "no preset 'nope'"),
        (["up", "--port", "70000"], "gateway.port"),
        (["service", "baker", "--config", "cpu"], "baker"),
        (["service", "router"], "--config"),
        (["service", "router", "--config", "/no/such.toml"], "no preset"),
        (["service", "gateway", "--config", "cpu", "extra"], "extra"),
        (["model"], "ACTION"),
        (["model", "prepare", "--model", "/no/such/model"], "neither 'smollm2'"),
    ],
)
def test_a_wrong_call_ends_with_two_and_the_reason(
    argv: list[str], reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert outcome(argv) == 2
    assert reason in capsys.readouterr().err


def test_a_prepared_model_is_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "config.json").write_text("{}")
    assert outcome(["model", "prepare", "--model", str(tmp_path)]) == 0
    assert capsys.readouterr().out == f"{tmp_path}\n"


def test_the_version_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert outcome(["--version"]) == 0
    assert capsys.readouterr().out.startswith("tetris ")


def test_every_role_of_the_mesh_can_be_started() -> None:
    assert set(MODULES) == {*get_args(Role), "emulated-workers"}
    for module in MODULES.values():
        assert importlib.util.find_spec(module) is not None


def test_the_command_itself_loads_neither_torch_nor_transformers() -> None:
    code = (
        "import sys, compose.cli; "
        "print([name for name in ('torch', 'transformers', 'gguf') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == "[]\n", done.stderr


def test_a_new_key_is_printed_with_the_line_that_lets_it_in(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["key", "bob", "--per-minute", "60"]) == 0
    key, line = capsys.readouterr().out.splitlines()
    file = tmp_path / "keys"
    file.write_text(line)
    known = keys.read(str(file), "gateway.keys")
    found = keys.find(known, key.encode())
    assert found is not None
    assert (found.name, found.per_minute) == ("bob", 60)
    assert main(["key", "not a name"]) == 2
