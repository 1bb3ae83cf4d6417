import os
import signal
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
HOLDING = """
import signal, sys, threading
from pathlib import Path
from compose import leash
if sys.argv[2] == 'deaf':
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
leash.hold(Path(sys.argv[1]), grace=0.05)
print('held', flush=True)
threading.Event().wait()
"""


def held(directory: Path, manner: str) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDING, str(directory), manner],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_a_closed_stdin_asks_to_stop_and_clears_the_directory(tmp_path: Path) -> None:
    directory = tmp_path / "run"
    directory.mkdir()
    (directory / "router.toml").write_text("")
    with held(directory, "obedient") as process:
        assert directory.exists()
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait(10) == -signal.SIGTERM
    assert not directory.exists()


def test_who_ignores_the_request_ends_after_the_grace(tmp_path: Path) -> None:
    with held(tmp_path / "gone", "deaf") as process:
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait(10) == 1
