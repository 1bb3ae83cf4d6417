"""A real mesh of local processes, started by the command that users start, and its log."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
START_LIMIT = 300.0
STOP_LIMIT = 30.0


@dataclass
class RealMesh:
    """A running mesh: where it listens and what its processes have logged."""

    url: str
    process: subprocess.Popen[str]
    lines: list[str] = field(default_factory=list)

    def events(self, name: str, **wanted: object) -> list[dict[str, Any]]:
        """All log events of that name whose fields are as wanted, in order of arrival."""
        found = []
        for line in list(self.lines):
            start = line.find("{")
            if start < 0 or f'"{name}"' not in line:
                continue
            try:
                event = json.loads(line[start:])
            except ValueError:
                continue
            if event.get("event") == name and all(event.get(k) == v for k, v in wanted.items()):
                found.append(event)
        return found

    def wait_for(self, name: str, count: int) -> None:
        """Until so many events of that name have been logged."""
        deadline = time.monotonic() + START_LIMIT
        while len(self.events(name)) < count:
            assert time.monotonic() < deadline, f"{len(self.events(name))} {name}, not {count}"
            time.sleep(0.02)

    def complete(self, body: dict[str, Any], headers: dict[str, str] | None = None) -> Any:
        """POST /v1/completions and return the JSON answer, whatever its status."""
        request = urllib.request.Request(
            f"{self.url}/v1/completions",
            data=json.dumps(body).encode(),
            headers={"content-type": "application/json", **(headers or {})},
        )
        try:
            with urllib.request.urlopen(request, timeout=600) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as refusal:
            return json.load(refusal)


def free_port() -> int:
    """A port on the loopback that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def running_mesh(*options: str, model: str = "smollm2") -> Iterator[RealMesh]:
    """`tetris up` on a free port with the test preset, stopped by Ctrl-C at the end."""
    port = free_port()
    preset = str(Path(__file__).parent / "preset.toml")
    given = ("--port", str(port), "--model", model, "--preset", preset, *options)
    process = subprocess.Popen(
        [sys.executable, "-m", "compose.cli", "up", *given],
        cwd=ROOT,
        env={**os.environ, "NO_COLOR": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    mesh = RealMesh(f"http://127.0.0.1:{port}", process)
    reader = threading.Thread(target=_read, args=(mesh,), daemon=True)
    reader.start()
    try:
        _await_ready(mesh)
        yield mesh
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(STOP_LIMIT)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise
        finally:
            reader.join(STOP_LIMIT)
            assert process.stdout is not None
            process.stdout.close()


def _read(mesh: RealMesh) -> None:
    assert mesh.process.stdout is not None
    for line in mesh.process.stdout:
        mesh.lines.append(line.rstrip("\n"))


def _await_ready(mesh: RealMesh) -> None:
    deadline = time.monotonic() + START_LIMIT
    while time.monotonic() < deadline:
        assert mesh.process.poll() is None, "\n".join(mesh.lines[-40:])
        try:
            with urllib.request.urlopen(f"{mesh.url}/ready", timeout=5):
                return
        except OSError:
            time.sleep(0.2)
    raise AssertionError("not ready in time:\n" + "\n".join(mesh.lines[-40:]))
