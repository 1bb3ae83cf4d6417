import asyncio
import io
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from compose.child import Command, Turn
from compose.console import Console
from compose.local_mesh import LocalMesh, Waits
from tests.compose.children import (
    DEAF,
    DYING,
    OBEDIENT,
    ROOT,
    SAYS_BYE,
    CountedProbe,
    StoppingLog,
    command,
    counting,
)

SHORT = Waits(start=20.0, stop=5.0, poll=0.01, repeat=0.01)

ORPHAN = """
import asyncio, os, sys, tempfile
from pathlib import Path
from compose.child import Command, Turn
from compose.console import Console
from compose.local_mesh import LocalMesh

CHILD = '''
import os, sys, threading
from pathlib import Path
from compose import leash
directory = Path(sys.argv[1])
leash.hold(directory)
print('child', os.getpid(), directory, flush=True)
threading.Event().wait()
'''

async def never():
    return 'waiting'

async def main(directory):
    command = (sys.executable, '-c', CHILD, directory)
    commands = [Command(name, command, os.environ) for name in ('one', 'two')]
    await LocalMesh(commands, Console(sys.stdout), never, str).run()

with tempfile.TemporaryDirectory() as directory:
    Path(directory, 'one.toml').write_text('')
    asyncio.run(main(directory))
"""


def run(codes: dict[str, str], needed: int, waits: Waits = SHORT) -> tuple[int, str]:
    """Run a mesh that stops itself as soon as it is ready; its status and log."""
    log = io.StringIO()

    def stop_when_ready(seconds: float) -> str:
        os.kill(os.getpid(), signal.SIGTERM)
        return f"ready after {'no' if seconds < 0 else 'some'} time"

    commands = [command(name, code) for name, code in codes.items()]
    console = Console(log)

    async def main() -> int:
        probe = CountedProbe(log, needed)
        return await LocalMesh(commands, console, probe, stop_when_ready, waits).run()

    return asyncio.run(main()), log.getvalue()


def has_ended(pid: int) -> Callable[[float], bool]:
    """A wait for the end of a process that is not a child of ours."""
    descriptor = os.pidfd_open(pid)

    def wait(seconds: float) -> bool:
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        ended = bool(poll.poll(seconds * 1000))
        os.close(descriptor)
        return ended

    return wait


def test_children_start_are_announced_once_and_stop_on_a_signal() -> None:
    status, log = run({"router": OBEDIENT, "gateway": OBEDIENT}, needed=2)
    assert status == 0
    assert log.count("ready after some time") == 1
    assert "waiting for" in log
    assert "ended by itself" not in log


def test_a_child_that_dies_ends_the_mesh_with_its_last_lines() -> None:
    status, log = run({"router": OBEDIENT, "decode-worker-0": DYING}, needed=9)
    assert status == 1
    assert "decode-worker-0 ended by itself (exit status 1)" in log
    assert log.count("the model is not a model") == 2
    assert "ready" not in log


def test_a_child_that_ignores_the_request_to_stop_is_killed() -> None:
    waits = Waits(start=20.0, stop=0.2, poll=0.01, repeat=60.0)
    status, log = run({"router": OBEDIENT, "deaf": DEAF}, needed=2, waits=waits)
    assert status == 0
    assert "still there after 0 s: deaf" in log


def test_a_second_signal_ends_everything_at_once() -> None:
    log = StoppingLog("stopping; once more to end at once")

    def stop(_: float) -> str:
        os.kill(os.getpid(), signal.SIGTERM)
        return "ready"

    async def main() -> int:
        commands = [command("deaf", DEAF), command("other", DEAF)]
        waits = Waits(start=20.0, stop=60.0, poll=0.01, repeat=60.0)
        return await LocalMesh(commands, Console(log), CountedProbe(log, 2), stop, waits).run()

    before = time.monotonic()
    assert asyncio.run(main()) == 0
    assert time.monotonic() - before < 30
    assert "ending at once" in log.getvalue().splitlines()[-1]


def test_a_start_that_takes_too_long_ends() -> None:
    waits = Waits(start=0.1, stop=5.0, poll=0.01, repeat=60.0)
    status, log = run({"router": OBEDIENT}, needed=2, waits=waits)
    assert status == 1
    assert "not ready after" in log


def test_every_line_stands_under_the_name_of_its_process() -> None:
    _, log = run({"router": OBEDIENT, "gateway": OBEDIENT}, needed=2)
    assert {line.split("|")[0].strip() for line in log.splitlines() if line.endswith("| up")} == {
        "router",
        "gateway",
    }


@pytest.mark.skipif(sys.platform != "linux", reason="waits with pidfd")
def test_nothing_is_left_when_the_launcher_itself_is_killed() -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    launcher = subprocess.Popen(
        [sys.executable, "-c", ORPHAN], stdout=subprocess.PIPE, text=True, env=environment
    )
    with launcher:
        assert launcher.stdout is not None
        lines = (line.split("|")[1].split() for line in launcher.stdout)
        children = [next(words for words in lines if words[0] == "child") for _ in range(2)]
        waits = [has_ended(int(pid)) for _, pid, _ in children]
        directory = Path(children[0][2])
        assert (directory / "one.toml").exists()
        launcher.kill()
    assert all(wait(10.0) for wait in waits)
    assert not directory.exists()


def keep(directory: Path, code: str, until: str) -> tuple[int, str]:
    """Run one child that is ready in its first life; stop when the log says `until`."""
    directory.mkdir()
    log = StoppingLog(until)

    def ready(seconds: float) -> str:
        Path(f"{directory}.ready").write_text("")
        return "ready"

    async def main() -> int:
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "TETRIS_FAILPOINTS": "here=kill"}
        argv = (sys.executable, "-c", counting(directory, code))
        one = Command("one", argv, environment)
        mesh = LocalMesh([one], Console(log), CountedProbe(log, 1), ready, SHORT)
        return await mesh.run()

    return asyncio.run(main()), log.getvalue()


def test_a_child_that_dies_is_started_again_without_its_failpoints(tmp_path: Path) -> None:
    code = "if life == 0: ready(); os.kill(os.getpid(), signal.SIGKILL)"
    status, log = keep(tmp_path / "lives", code, until="| up 1")
    assert status == 0
    assert "one ended by itself (signal SIGKILL): starting it again at once" in log
    assert log.count("one started (pid ") == 2
    lives = [(tmp_path / "lives" / life).read_text() for life in ("0", "1")]
    assert lives == ["here=kill", ""]


def test_a_second_end_in_a_row_has_to_wait(tmp_path: Path) -> None:
    code = "if life < 2: ready(); sys.exit(1)"
    status, log = keep(tmp_path / "lives", code, until="| up 2")
    assert status == 0
    assert "one ended by itself (exit status 1): starting it again in 0.5 s" in log


def test_who_has_left_on_order_is_not_started_again(tmp_path: Path) -> None:
    code = "ready(); sys.exit(0)"
    status, log = keep(tmp_path / "lives", code, until="not started again")
    assert status == 0
    assert "one has left on order (exit status 0): it is not started again" in log
    assert log.count("one started (pid ") == 1


def test_who_cannot_serve_as_configured_ends_the_mesh(tmp_path: Path) -> None:
    code = "ready(); sys.exit(2)"
    status, log = keep(tmp_path / "lives", code, until="never")
    assert status == 1
    assert "one ended by itself (exit status 2): it cannot serve as configured." in log
    assert log.count("one started (pid ") == 1


def test_a_stop_while_a_child_waits_for_its_next_life_does_not_wait(tmp_path: Path) -> None:
    code = "if life < 2: ready(); sys.exit(1)"
    status, log = keep(tmp_path / "lives", code, until="again in 0.5 s")
    assert status == 0
    assert log.count("one started (pid ") == 2


def test_the_gateway_goes_first_and_the_router_last() -> None:
    log = io.StringIO()
    turns = {"router": Turn.LAST, "worker": Turn.MIDDLE, "gateway": Turn.FIRST}
    commands = [
        Command(name, (sys.executable, "-c", SAYS_BYE), os.environ, turn)
        for name, turn in turns.items()
    ]

    def stop(_: float) -> str:
        os.kill(os.getpid(), signal.SIGTERM)
        return "ready"

    async def main() -> int:
        return await LocalMesh(commands, Console(log), CountedProbe(log, 3), stop, SHORT).run()

    assert asyncio.run(main()) == 0
    byes = [line.split()[0] for line in log.getvalue().splitlines() if line.endswith("| bye")]
    assert byes == ["gateway", "worker", "router"]


def test_a_stopped_child_hears_the_request_to_stop_all_the_same() -> None:
    log = io.StringIO()
    code = SAYS_BYE.replace("over.wait()", "os.kill(os.getpid(), signal.SIGSTOP)\nover.wait()")
    commands = [command("worker", f"import os\n{code}")]

    def stop(_: float) -> str:
        os.kill(os.getpid(), signal.SIGTERM)
        return "ready"

    async def main() -> int:
        return await LocalMesh(commands, Console(log), CountedProbe(log, 1), stop, SHORT).run()

    assert asyncio.run(main()) == 0
    assert "| bye" in log.getvalue()
