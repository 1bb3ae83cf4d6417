from pathlib import Path

import pytest

from common.cache import cache_directory


def test_the_cache_is_where_the_environment_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TETRIS_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", "/home/me")
    assert cache_directory("latency") == Path("/home/me/.cache/tetris/latency")
    monkeypatch.setenv("XDG_CACHE_HOME", "/shared")
    assert cache_directory("latency") == Path("/shared/tetris/latency")
    monkeypatch.setenv("TETRIS_CACHE", "~/own")
    assert cache_directory("models") == Path("/home/me/own/models")
