import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from common.launch import FAILED, LEFT, TERMINATED

PROGRAM = """
import asyncio, sys, time
from common.config import Config, MeshConfig, ModelConfig
from common.errors import ConfigError
from common import failpoints
from common.messages import Cancel
from common.launch import launch

async def serve(process):
    process.log.info("serving", endpoint=process.mesh.inbox)
    match sys.argv[2]:
        case "wait":
            process.mesh.send("tcp://127.0.0.1:9", Cancel("r", 1))
            try:
                await process.mesh.receive()
            finally:
                process.log.info("unwinding")
        case "return":
            return
        case "refuse":
            raise ConfigError("no such model")
        case "fail":
            hidden = "secret prompt"
            raise ValueError("a bug")
        case "hang":
            process.is_member = True
            time.sleep(60)
        case "load":
            asyncio.get_running_loop().slow_callback_duration = 60
            time.sleep(1.5)
            return
        case "member" | "drain":
            process.is_member = True
            if sys.argv[2] == "drain":
                process.is_ordered = True
                process.stopping.set()
            await process.stopping.wait()
            process.log.info("told")
            await asyncio.sleep(60)
        case "hit":
            while True:
                failpoints.hit("here")
                await asyncio.sleep(0.01)
        case "callback":
            asyncio.get_running_loop().call_soon(int, "a bug")
            await asyncio.sleep(60)
        case "stay":
            while True:
                try:
                    await asyncio.sleep(60)
                except asyncio.CancelledError:
                    process.log.info("staying")

if sys.argv[2] in ("hang", "load"):
    sys.modules["common.launch"].TICK = 0.05
mesh = MeshConfig(router=sys.argv[3], name="one" if sys.argv[2] == "hit" else None, drain=0.3)
sys.exit(launch(sys.argv[1], serve, Config(model=ModelConfig(path="p", name="n"), mesh=mesh)))
"""


class Program:
    """A service in a process of its own, warnings being errors."""

    def __init__(
        self, role: str, what: str, router: str = "tcp://127.0.0.1:5550", **env: str
    ) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-X", "dev", "-W", "error", "-c", PROGRAM, role, what, router],
            env=os.environ | {"PYTHONPATH": "."} | env,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.lines: list[dict[str, object]] = []

    @property
    def pid(self) -> int:
        return self._process.pid

    def until(self, event: str) -> dict[str, object]:
        assert self._process.stderr is not None
        for text in self._process.stderr:
            self.lines.append(json.loads(text))
            if self.lines[-1]["event"] == event:
                return self.lines[-1]
        raise AssertionError(self.lines)

    def signal(self, number: int) -> None:
        self._process.send_signal(number)

    def end(self) -> int:
        _, rest = self._process.communicate(timeout=60)
        self.lines += [json.loads(text) for text in rest.splitlines()]
        return self._process.returncode

    def events(self) -> list[object]:
        return [line["event"] for line in self.lines]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_a_service_cleanly_without_a_word_of_warning(number: int):
    program = Program("prefill-worker", "wait")
    line = program.until("serving")
    assert line["service"] == "prefill-worker"
    assert str(line["name"]).startswith("prefill-worker-")
    program.signal(number)
    assert program.end() == TERMINATED
    assert program.events() == ["started", "serving", "unwinding", "stopped"]
    assert program.lines[0]["pid"] == program.pid


def test_a_service_that_ends_by_itself_ends_well():
    program = Program("kv-transfer", "return")
    assert program.end() == 0
    assert program.events() == ["started", "serving", "stopped"]


def test_a_wrong_configuration_is_one_line_and_status_2():
    program = Program("gateway", "refuse")
    assert program.end() == 2
    assert program.lines[-1]["event"] == "cannot start"
    assert program.lines[-1]["reason"] == "no such model"
    failpoint = Program("gateway", "wait", TETRIS_FAILPOINTS="nonsense")
    assert failpoint.end() == 2
    assert failpoint.events() == ["cannot start"]


def test_a_bug_is_logged_once_without_locals_and_is_status_1():
    program = Program("decode-worker", "fail")
    assert program.end() == 1
    assert program.events() == ["started", "serving", "failed"]
    assert "a bug" in json.dumps(program.lines[-1])
    assert "secret prompt" not in json.dumps(program.lines[-1])


def test_a_bug_in_a_callback_ends_the_process_too():
    program = Program("decode-worker", "callback")
    assert program.end() == 1
    assert program.events() == ["started", "serving", "failed"]
    assert "a bug" in json.dumps(program.lines[-1])


def test_a_second_signal_ends_a_service_that_does_not_stop():
    program = Program("decode-worker", "stay")
    program.until("serving")
    program.signal(signal.SIGTERM)
    program.until("staying")
    program.signal(signal.SIGTERM)
    assert program.end() == 1


def test_a_member_gets_its_time_to_drain_and_no_more():
    program = Program("decode-worker", "member")
    program.until("serving")
    program.signal(signal.SIGTERM)
    assert program.end() == TERMINATED
    assert program.events()[2:] == ["told", "not drained in time", "stopped"]


def test_who_leaves_on_order_has_status_0_and_a_first_signal_does_not_cut_it_short():
    program = Program("decode-worker", "drain")
    program.until("told")
    program.signal(signal.SIGTERM)
    assert program.end() == LEFT
    assert program.events()[-1] == "stopped"


def test_a_loop_that_hangs_ends_the_process_as_a_bug():
    program = Program("decode-worker", "hang")
    assert program.end() == FAILED
    assert program.events() == ["started", "serving", "event loop hangs"]
    assert str(program.lines[-1]["place"]).endswith("in serve")


def test_a_slow_start_is_told_and_goes_on():
    program = Program("decode-worker", "load")
    assert program.end() == 0
    events = program.events()
    assert events[:2] == ["started", "serving"]
    assert set(events[2:-1]) == {"starts slowly"}
    assert events[-1] == "stopped"


def test_the_router_serves_from_its_start():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{free.getsockname()[1]}"
    program = Program("router", "load", address)
    assert program.end() == FAILED
    assert program.events() == ["started", "serving", "event loop hangs"]


def test_a_signal_arms_the_failpoints_of_a_running_process(tmp_path: Path):
    program = Program("decode-worker", "hit", TETRIS_FAILPOINTS_DIR=str(tmp_path))
    program.until("serving")
    program.signal(signal.SIGUSR2)
    assert "one" in str(program.until("failpoints unchanged")["reason"])
    (tmp_path / "one").write_text("here=kill:3\n")
    program.signal(signal.SIGUSR2)
    assert program.until("failpoints armed")["spec"] == "here=kill:3"
    assert program.end() == -signal.SIGKILL
    assert program.lines[-1] == {
        "event": "failpoint",
        "name": "one",
        "point": "here",
        "action": "kill",
        "hit": 3,
    }


def test_failpoints_of_the_environment_may_name_their_process():
    program = Program("decode-worker", "hit", TETRIS_FAILPOINTS="two@here=raise,one@here=raise:2")
    assert program.end() == FAILED
    assert program.events() == ["started", "serving", "failpoint", "failed"]


def test_the_router_binds_the_well_known_address_and_says_so_when_it_is_taken():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{taken.getsockname()[1]}"
        refused = Program("router", "wait", address)
        assert refused.end() == 2
        assert str(refused.lines[-1]["reason"]).startswith(f"cannot bind {address}")
    router = Program("router", "wait", address)
    assert router.until("serving")["endpoint"] == address
    router.signal(signal.SIGTERM)
    assert router.end() == TERMINATED
