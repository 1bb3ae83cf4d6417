from pathlib import Path

import pytest

from common.errors import ConfigError
from compose.delays import delays_of


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0", (0.0, 0.0, 0.0, 0.0)),
        ("0.31", (0.31, 0.31, 0.31, 0.31)),
        ("0,0.5,1,2e-1", (0.0, 0.5, 1.0, 0.2)),
        ("0.31*2, 0*2", (0.31, 0.31, 0.0, 0.0)),
        ("1*4", (1.0, 1.0, 1.0, 1.0)),
    ],
)
def test_a_list_names_one_delay_per_instance(text: str, expected: tuple[float, ...]) -> None:
    assert delays_of(text, 4) == expected


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("0,1", "2 numbers for 4 prefill instances"),
        ("0*3", "3 numbers for 4"),
        ("0*1", "1 numbers for 4"),
        ("0*999999999999", "999999999999 numbers for 4"),
        ("0,x,0,0", "entry 2: 'x' is neither"),
        ("0,,0,0", "entry 2: ''"),
        ("0,0,-1,0", "entry 3: '-1'"),
        ("nan", "entry 1: 'nan'"),
        ("inf", "entry 1: 'inf'"),
        ("0*0", "entry 1"),
        ("0*1.5", "entry 1"),
        ("", "entry 1"),
        ("no/such/file", "nor is there such a file"),
        ("0.123456," * 1000, "entry 1001"),
    ],
)
def test_a_wrong_list_is_refused_with_its_entry(text: str, reason: str) -> None:
    with pytest.raises(ConfigError) as error:
        delays_of(text, 4)
    assert reason in str(error.value)
    assert str(error.value).startswith("--delays: ")


def test_a_file_has_a_number_per_line(tmp_path: Path) -> None:
    path = tmp_path / "delays"
    path.write_text("# of a busy cluster\n0.5\n\n0*2  # idle\n  1.25\n")
    assert delays_of(str(path), 4) == (0.5, 0.0, 0.0, 1.25)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"0\n0\nsoon\n0\n", "line 3: 'soon' is neither"),
        (b"0\n0\n", "2 numbers for 4"),
        (b"", "0 numbers for 4"),
        (b"\xff\xfe", "codec"),
    ],
)
def test_a_wrong_file_is_refused_with_its_line(tmp_path: Path, content: bytes, reason: str) -> None:
    path = tmp_path / "delays"
    path.write_bytes(content)
    with pytest.raises(ConfigError) as error:
        delays_of(str(path), 4)
    assert reason in str(error.value)
    assert "such a file" not in str(error.value)
