import hashlib
from pathlib import Path

import pytest

from common.errors import ConfigError
from common.keys import Key, find, fresh, line, read

DIGEST = hashlib.sha256(b"secret").hexdigest()


def test_a_fresh_key_and_its_line_fit_each_other(tmp_path: Path) -> None:
    key, other = fresh(), fresh()
    file = tmp_path / "keys"
    file.write_text(
        f"# who may come\n\n{line('bob', key, 60)}  # our tester\n{line('eve', other)}\n"
    )
    keys = read(str(file), "gateway.keys")
    assert [(known.name, known.per_minute) for known in keys] == [("bob", 60), ("eve", None)]
    assert find(keys, key.encode()) == keys[0]
    assert find(keys, other.encode()) == keys[1]
    assert key not in file.read_text()
    # 256 random bits behind the prefix.
    assert key != other
    assert len(key.removeprefix("tetris-")) == 43


@pytest.mark.parametrize("given", [b"", b"Secret", b"secret ", b"\xff\x00", DIGEST.encode()])
def test_what_is_no_key_finds_none(given: bytes) -> None:
    assert find([Key("a", DIGEST)], given) is None
    assert find([Key("a", DIGEST)], b"secret") is not None


@pytest.mark.parametrize(
    ("bad", "why"),
    [
        ("bob", "NAME SHA256HEX"),
        (f"bob {DIGEST} 5 5", "NAME SHA256HEX"),
        ("bob tetris-abcdef", "no SHA-256"),
        (f"bob {DIGEST.upper()}", "no SHA-256"),
        (f"b/b {DIGEST}", "name"),
        (f"bob {DIGEST} 0", "per minute"),
        (f"bob {DIGEST} ten", "per minute"),
        (f"ann {'0' * 64}", "name is there"),
        (f"bob {'1' * 64}", "key is there"),
    ],
)
def test_a_bad_line_is_named_and_not_quoted(tmp_path: Path, bad: str, why: str) -> None:
    file = tmp_path / "keys"
    file.write_text(f"# keys\nann {'1' * 64}\n{bad}\n")
    with pytest.raises(ConfigError, match=why) as error:
        read(str(file), "gateway.keys")
    assert str(error.value).startswith(f"gateway.keys: {file}:3: ")
    assert "tetris-abcdef" not in str(error.value)


@pytest.mark.parametrize("content", [b"", b"# nobody\n", b"\xff\xfe"])
def test_a_file_without_keys_stops_the_start(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "keys"
    file.write_bytes(content)
    with pytest.raises(ConfigError, match=str(file)):
        read(str(file), "gateway.keys")


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"gateway\.keys: .*none"):
        read(str(tmp_path / "none"), "gateway.keys")


@pytest.mark.parametrize("name", ["", "a b", "-a", "a" * 65, "ä"])
def test_a_line_needs_a_name(name: str) -> None:
    with pytest.raises(ConfigError, match="is no name"):
        line(name, "secret")
