import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from common.errors import ConfigError
from common.failpoints import InjectedFault, configure, hit, hooked, reread


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


def ended(spec: str) -> "subprocess.CompletedProcess[str]":
    code = f"""
from common import failpoints
failpoints.configure({spec!r}, "worker-0")
try:
    failpoints.hit("here")
    failpoints.hit("here")
finally:
    raise SystemExit(0)
"""
    return subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONPATH": "."},
        stderr=subprocess.PIPE,
        text=True,
        timeout=60,
    )


def test_a_fault_is_told_before_it_acts_even_before_sigkill():
    died = ended("here=kill:2")
    assert died.returncode == -signal.SIGKILL
    told = {"event": "failpoint", "name": "worker-0", "point": "here", "action": "kill", "hit": 2}
    assert [json.loads(line) for line in died.stderr.splitlines()] == [told]


def test_an_item_for_another_process_does_nothing_here():
    assert ended("worker-1@here=kill").stderr == ""
    assert ended("worker-1@here=kill,worker-0@here=kill").returncode == -signal.SIGKILL


def test_stop_holds_the_whole_process_until_it_is_continued():
    code = """
from common import failpoints
failpoints.configure("here=stop")
failpoints.hit("here")
"""
    process = subprocess.Popen([sys.executable, "-c", code], env=os.environ | {"PYTHONPATH": "."})
    _, status = os.waitpid(process.pid, os.WUNTRACED)
    assert os.WIFSTOPPED(status)
    process.send_signal(signal.SIGCONT)
    assert process.wait(60) == 0


def test_a_process_reads_its_own_file_anew(tmp_path: Path):
    configure("before=raise")
    (tmp_path / "worker-0").write_text("here=raise\n\nworker-1@there=raise\n")
    assert reread(str(tmp_path), "worker-0").startswith("here=raise")
    hit("before")
    hit("there")
    with pytest.raises(InjectedFault):
        hit("here")
    (tmp_path / "worker-0").write_text("")
    reread(str(tmp_path), "worker-0")
    hit("here")


def test_a_broken_file_leaves_everything_as_it_was(tmp_path: Path):
    configure("before=raise")
    (tmp_path / "worker-0").write_text("here=explode")
    for name in ("worker-0", "nobody"):
        with pytest.raises(ConfigError):
            reread(str(tmp_path), name)
    (tmp_path / "worker-0").write_bytes(b"\xff")
    with pytest.raises(ConfigError):
        reread(str(tmp_path), "worker-0")
    with pytest.raises(InjectedFault):
        hit("before")


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
        "@here=kill",
        "a b@here=kill",
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
