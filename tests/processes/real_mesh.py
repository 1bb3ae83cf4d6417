"""A real mesh of local processes, started by the command that users start, and its log."""

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
PRESET = Path(__file__).parent / "preset.toml"
START_LIMIT = 300.0
STOP_LIMIT = 30.0
ARM_LIMIT = 30.0


@dataclass
class RealMesh:
    """A running mesh: where it listens, its processes, and what they have logged."""

    url: str
    process: subprocess.Popen[str]
    """The launcher."""
    control: str = ""
    """URL of the operators' door."""
    failpoints: Path = Path()
    """Directory of the files that arm failpoints."""
    lines: list[str] = field(default_factory=list)

    def pids(self) -> dict[str, int]:
        """All processes that live now, those that are stopped included, without the launcher."""
        latest = {event["name"]: event["pid"] for event in self.events("started")}
        return {name: pid for name, pid in latest.items() if is_alive(pid)}

    def pid(self, name: str) -> int:
        """Of the latest life of a process; it may be over."""
        return int(self.events("started", name=name)[-1]["pid"])

    def kill(self, name: str, number: int = signal.SIGKILL) -> int:
        """Send a signal to a process and return its pid."""
        pid = self.pid(name)
        os.kill(pid, number)
        return pid

    def arm(self, name: str, spec: str) -> None:
        """Replace a process's failpoints, `place=action[:count],...`, counted from now.

        Returns when the process has taken them; one that is stopped takes them when continued.
        """
        before = len(self.events("failpoints armed", name=name))
        (self.failpoints / name).write_text(spec)
        pid = self.kill(name, signal.SIGUSR2)
        deadline = time.monotonic() + ARM_LIMIT
        while len(self.events("failpoints armed", name=name)) == before:
            if state(pid) in ("", "Z", "T"):
                return
            assert time.monotonic() < deadline, f"{name} does not read {spec!r}"
            time.sleep(0.01)

    def events(self, name: str, /, **wanted: object) -> list[dict[str, Any]]:
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

    def wait_for(
        self, name: str, /, count: int = 1, limit: float = START_LIMIT, **wanted: object
    ) -> list[dict[str, Any]]:
        """Until so many events of that name, with fields as wanted, have been logged."""
        deadline = time.monotonic() + limit
        while len(found := self.events(name, **wanted)) < count:
            assert time.monotonic() < deadline, f"{len(found)} {name} {wanted}, not {count}"
            time.sleep(0.02)
        return found

    def await_ready(self, limit: float = START_LIMIT) -> None:
        """Until GET /ready says so."""
        deadline = time.monotonic() + limit
        while time.monotonic() < deadline:
            assert self.process.poll() is None, "\n".join(self.lines[-40:])
            try:
                with urllib.request.urlopen(f"{self.url}/ready", timeout=5):
                    return
            except OSError:
                time.sleep(0.2)
        raise AssertionError("not ready in time:\n" + "\n".join(self.lines[-40:]))

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


def state(pid: int) -> str:
    """R, S, T, Z..., as the kernel shows it; nothing when there is no such process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][:1]
    except OSError:
        return ""


def is_alive(pid: int) -> bool:
    """Whether a process is there and has not ended; one that is stopped lives."""
    return state(pid) not in ("", "Z", "X")


def free_port() -> int:
    """A port on the loopback that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def running_mesh(
    *options: str,
    model: str | None = "smollm2",
    preset: str | Path = PRESET,
    environment: Mapping[str, str] | None = None,
) -> Iterator[RealMesh]:
    """`tetris up` on free ports with a test preset, stopped by Ctrl-C at the end."""
    port, control = free_port(), free_port()
    given = ["--port", str(port), "--control-port", str(control)]
    given += ["--preset", str(preset), *options, *(["--model", model] if model else [])]
    with tempfile.TemporaryDirectory(prefix="tetris-failpoints-") as directory:
        armed = {"NO_COLOR": "1", "TETRIS_FAILPOINTS_DIR": directory, **(environment or {})}
        process = subprocess.Popen(
            [sys.executable, "-m", "compose.cli", "up", *given],
            cwd=ROOT,
            env={**os.environ, **armed},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        loopback = "http://127.0.0.1"
        mesh = RealMesh(f"{loopback}:{port}", process, f"{loopback}:{control}", Path(directory))
        reader = threading.Thread(target=_read, args=(mesh,), daemon=True)
        reader.start()
        try:
            mesh.await_ready()
            yield mesh
        finally:
            _stop(mesh, reader)


def _stop(mesh: RealMesh, reader: threading.Thread) -> None:
    mesh.process.send_signal(signal.SIGINT)
    try:
        mesh.process.wait(STOP_LIMIT)
    except subprocess.TimeoutExpired:
        mesh.process.kill()
        mesh.process.wait()
        raise
    finally:
        reader.join(STOP_LIMIT)
        assert mesh.process.stdout is not None
        mesh.process.stdout.close()


def _read(mesh: RealMesh) -> None:
    assert mesh.process.stdout is not None
    for line in mesh.process.stdout:
        mesh.lines.append(line.rstrip("\n"))
