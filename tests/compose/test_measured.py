from pathlib import Path

import pytest

from common.errors import ConfigError
from common.latency import PRESETS, LatencyModel, Sample
from compose import measured


def written(path: Path, text: str) -> Path:
    file = path / "grid.csv"
    file.write_text(text)
    return file


def test_one_chunk_a_line_with_columns_in_any_order(tmp_path: Path) -> None:
    text = "\ufeff# mine\nlength, size,seconds,history\n\n4k,2,0.5,0\n100,1, 1e-1 ,3000\n"
    file = written(tmp_path, text)
    assert measured.read(file) == [Sample(2, 0, 4096, 0.5), Sample(1, 3000, 100, 0.1)]


def test_a_table_has_no_history_and_may_have_holes(tmp_path: Path) -> None:
    file = written(tmp_path, "SP,4k,100\n1,0.5,\n2,,0.25\n4\n")
    assert measured.read(file) == [Sample(1, 0, 4096, 0.5), Sample(2, 0, 100, 0.25)]


@pytest.mark.parametrize(
    ("text", "where", "what"),
    [
        ("", "grid.csv: ", "nothing is in it"),
        ("size,history\n1,2\n", "grid.csv:1: ", "neither size,history,length,seconds nor SP"),
        ("size,history,length,seconds\n", "grid.csv: ", "no measurement"),
        ("SP,4k\n1,\n", "grid.csv: ", "no measurement"),
        ("#\nsize,history,length,seconds\n1,0,10\n", "grid.csv:3: ", "3 cells under 4"),
        ("size,history,length,seconds\n0,0,10,1\n", "grid.csv:2: ", "size must be"),
        ("size,history,length,seconds\n2000,0,10,1\n", "grid.csv:2: ", "at most 1024"),
        ("size,history,length,seconds\n1,-5,10,1\n", "grid.csv:2: ", "history must be"),
        ("size,history,length,seconds\n1,0,0,1\n", "grid.csv:2: ", "length must be"),
        ("size,history,length,seconds\n1,0,9.5,1\n", "grid.csv:2: ", "'9.5'"),
        ("size,history,length,seconds\n1,0,999999999k,1\n", "grid.csv:2: ", "length must be"),
        ("size,history,length,seconds\n1,0,1,0\n", "grid.csv:2: ", "seconds must be"),
        ("size,history,length,seconds\n1,0,1,nan\n", "grid.csv:2: ", "'nan'"),
        ("size,history,length,seconds\n1,0,1,soon\n", "grid.csv:2: ", "'soon'"),
        ("SP,4k,many\n1,2,3\n", "grid.csv:1: ", "length must be"),
        ("SP,4k\n1,2,3\n", "grid.csv:2: ", "2 cells under 1 lengths"),
        ("SP,4k\nx,2\n", "grid.csv:2: ", "size must be"),
        ("SP,4k\n1,OOM\n", "grid.csv:2: ", "'OOM'"),
    ],
)
def test_what_is_wrong_is_told_with_its_line(
    tmp_path: Path, text: str, where: str, what: str
) -> None:
    with pytest.raises(ConfigError) as raised:
        measured.read(written(tmp_path, text))
    assert where in str(raised.value)
    assert what in str(raised.value)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.csv"):
        measured.read(tmp_path / "none.csv")
    (tmp_path / "grid.csv").write_bytes(b"\xff\xfe\xff")
    with pytest.raises(ConfigError, match=r"grid\.csv"):
        measured.read(tmp_path / "grid.csv")


def test_the_shipped_a100_model_is_the_fit_of_the_shipped_table() -> None:
    samples = measured.read(PRESETS / "a100-llama3-8b.csv")
    fitted, shipped = LatencyModel.fit(samples), LatencyModel.load("a100-llama3-8b")
    assert len(samples) == 34
    assert fitted.sizes == shipped.sizes
    for size in fitted.sizes:
        assert fitted.curves[size] == pytest.approx(shipped.curves[size], rel=1e-9, abs=0)
    assert max(abs(shipped.error(sample)) for sample in samples) < 0.065
