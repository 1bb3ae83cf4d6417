"""The launcher keeps its processes alive, and leaves none behind."""

import os
import signal
import time

import pytest

from tests.processes.real_mesh import RealMesh, is_alive, running_mesh, state

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

HELLO = {"model": "smollm2", "prompt": "Hello", "max_tokens": 4, "temperature": 0}
BACK = 60.0


def await_end(pid: int, limit: float = 30.0) -> None:
    deadline = time.monotonic() + limit
    while is_alive(pid):
        assert time.monotonic() < deadline, f"{pid} is still there"
        time.sleep(0.01)


def kill_and_await_its_next_life(mesh: RealMesh, name: str) -> None:
    joined = len(mesh.events("joined", name=name))
    before = mesh.kill(name)
    mesh.wait_for("joined", joined + 1, limit=BACK, name=name)
    assert mesh.pid(name) != before
    said = f"{name} ended by itself (signal SIGKILL): starting it again at once"
    assert any(said in line for line in mesh.lines)
    mesh.await_ready(BACK)


def test_a_killed_worker_comes_back_and_serves_and_nothing_is_left_in_the_end() -> None:
    with running_mesh("--prefill", "1", "--decode", "1") as mesh:
        names = {"router", "kv-transfer", "gateway", "prefill-worker-0", "decode-worker-0"}
        assert set(mesh.pids()) == names
        before = mesh.complete(HELLO)["choices"]
        for name in ("prefill-worker-0", "decode-worker-0"):
            kill_and_await_its_next_life(mesh, name)
            assert mesh.complete(HELLO)["choices"] == before
        mesh.arm("decode-worker-0", "decode.step=sleep(0)")
        assert mesh.complete(HELLO)["choices"] == before
        living = mesh.pids()
        stopped = mesh.kill("prefill-worker-0", signal.SIGSTOP)
        while state(stopped) != "T":
            time.sleep(0.01)
        os.kill(stopped, signal.SIGCONT)
        assert set(living) == names
    assert mesh.process.returncode == 0
    for pid in living.values():
        await_end(pid)
    assert not any("still there after" in line for line in mesh.lines)
