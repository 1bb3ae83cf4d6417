import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from common.errors import ConfigError
from common.failpoints import InjectedFault, configure, hit, hooked


@pytest.fixture(autouse=True)
def _unset() -> Iterator[None]:
    yield
    configure("")


def test_nothing_happens_where_nothing_is_set():
    hit("ring.step")
    configure("kv.layer=raise")
    hit("ring.step")
    with pytest.raises(InjectedFault, match=r"kv\.layer"):
        hit("kv.layer")


def test_without_a_count_it_acts_every_time_and_with_one_that_time_alone():
    configure("always=raise,third=raise:3")
    fired = []
    for name in ("always", "third"):
        for number in range(1, 6):
            try:
                hit(name)
            except InjectedFault:
                fired.append((name, number))
    assert fired == [("always", number) for number in range(1, 6)] + [("third", 3)]


def test_sleep_holds_the_thread():
    configure("slow=sleep(0.02)")
    before = time.perf_counter()
    hit("slow")
    assert time.perf_counter() - before >= 0.02


def test_kill_leaves_no_time_to_clean_up():
    code = """
from common import failpoints
failpoints.configure("here=kill:2")
try:
    failpoints.hit("here")
    failpoints.hit("here")
finally:
    raise SystemExit(0)
"""
    ended = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | {"PYTHONPATH": "."}, timeout=60
    )
    assert ended.returncode == -signal.SIGKILL


def test_a_hook_replaces_what_is_set_and_gives_it_back():
    configure("here=raise")
    seen = []
    with hooked("here", lambda: seen.append(1)), hooked("there", lambda: seen.append(2)):
        hit("here")
        hit("there")
    assert seen == [1, 2]
    hit("there")
    with pytest.raises(InjectedFault):
        hit("here")


@pytest.mark.parametrize(
    "spec",
    [
        "here",
        "here=",
        "=kill",
        "here=explode",
        "here=kill:0",
        "here=kill:x",
        "here=sleep",
        "here=sleep(-1)",
        "here=kill;there=kill",
        "a=kill,b",
    ],
)
def test_a_specification_that_cannot_be_read_is_refused_and_changes_nothing(spec: str):
    configure("before=raise")
    with pytest.raises(ConfigError, match="TETRIS_FAILPOINTS: cannot read"):
        configure(spec)
    with pytest.raises(InjectedFault):
        hit("before")
