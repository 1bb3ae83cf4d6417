import json
from pathlib import Path

import pytest

from common.latency import PRESETS, LatencyModel
from compose.cli import main

TABLE_I = str(PRESETS / "a100-llama3-8b.csv")


def test_table_i_is_fitted_with_every_cell_s_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "mine.toml"
    assert main(["fit", TABLE_I, "--out", str(out), "--comment", "by hand"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split() == ["SP", "4k", "8k", "16k", "32k", "64k", "128k", "256k"]
    assert lines[6].split() == ["16", "+2.1", "-4.0", "-1.9", "+6.3", "-2.9", "-2.8", "+2.3"]
    assert lines[8:] == ["34 cells: mean error 1.78%, worst 6.32%", f"written: {out}"]
    assert out.read_text().startswith("# by hand\n")
    assert LatencyModel.load(str(out)).sizes == (1, 2, 4, 8, 16)


def test_history_gets_its_own_table_and_the_file_a_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    grid = tmp_path / "grid.csv"
    rows = ["1,0,100,1.0", "1,0,100,1.1", "1,0,200,2", "1,0,400,4", "1,1k,100,1.5"]
    grid.write_text("\n".join(["size,history,length,seconds", *rows]))
    assert main(["fit", str(grid)]) == 0
    shown = capsys.readouterr().out
    assert "error in % after 1k tokens" in shown
    assert shown.splitlines()[2].split()[0] == "1"
    assert len(shown.splitlines()[2].split()) == 5
    written = (tmp_path / "grid.toml").read_text()
    assert written.startswith("# Prefill seconds, fitted by relative least squares to grid.csv.\n")


def test_programs_get_the_same_as_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "mine.toml"
    assert main(["fit", TABLE_I, "--json", "--out", str(out)]) == 0
    answer = json.loads(capsys.readouterr().out)
    errors = [abs(cell["error"]) for cell in answer["cells"]]
    assert len(errors) == 34
    assert answer["worst"] == max(errors) < 0.065
    assert answer["mean"] == pytest.approx(sum(errors) / 34)
    assert answer["file"] == str(out)
    assert answer["sizes"]["2"] == LatencyModel.load(str(out)).curves[2]._asdict()


def test_a_wrong_file_ends_with_two_and_writes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    grid = tmp_path / "grid.csv"
    grid.write_text("SP,4k\n1,fast\n")
    assert main(["fit", str(grid)]) == 2
    assert capsys.readouterr().err.startswith(f"tetris fit: {grid}:2: seconds")
    assert list(tmp_path.iterdir()) == [grid]


def test_a_place_that_cannot_be_written_ends_with_two(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    assert main(["fit", TABLE_I, "--out", str(tmp_path / "file" / "m.toml")]) == 2
    assert "file" in capsys.readouterr().err
