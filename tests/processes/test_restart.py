"""The launcher keeps its processes alive, and leaves none behind."""

import signal
import time

import pytest

from compose.cli import main
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
    # The router starts, everybody else joins it.
    event = "started" if name == "router" else "joined"
    seen = len(mesh.events(event, name=name))
    before = mesh.kill(name)
    mesh.wait_for(event, seen + 1, limit=BACK, name=name)
    assert mesh.pid(name) != before
    said = f"{name} ended by itself (signal SIGKILL): starting it again at once"
    assert any(said in line for line in mesh.lines)
    mesh.await_ready(BACK)


def drain(mesh: RealMesh, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["drain", name, "--url", mesh.control]) == 0
    assert capsys.readouterr().out.endswith(f"{name} has left\n")
    said = f"{name} has left on order (exit status 0): it is not started again"
    deadline = time.monotonic() + BACK
    while not any(said in line for line in mesh.lines):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert main(["status", "--url", mesh.control]) == 0
    shown = [line.split()[:1] for line in capsys.readouterr().out.splitlines()]
    assert [name] not in shown
    assert ["decode-worker-0"] in shown


def test_what_is_killed_comes_back_what_is_drained_does_not_and_nothing_is_left_in_the_end(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with running_mesh("--prefill", "2", "--decode", "1") as mesh:
        names = {"router", "kv-transfer", "gateway", "decode-worker-0"}
        names |= {"prefill-worker-0", "prefill-worker-1"}
        assert set(mesh.pids()) == names
        before = mesh.complete(HELLO)["choices"]
        drain(mesh, "prefill-worker-1", capsys)
        for name in ("prefill-worker-0", "decode-worker-0", "router"):
            kill_and_await_its_next_life(mesh, name)
            assert mesh.complete(HELLO)["choices"] == before
        living = mesh.pids()
        assert set(living) == names - {"prefill-worker-1"}
        stopped = mesh.kill("prefill-worker-0", signal.SIGSTOP)
        while state(stopped) != "T":
            time.sleep(0.01)
    assert mesh.process.returncode == 0
    for pid in living.values():
        await_end(pid)
    assert not any("still there after" in line for line in mesh.lines)
