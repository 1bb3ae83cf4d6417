"""`tetris up`: one mesh as processes of this machine.

Everything it writes (configuration files, the processes' temporary files and sockets) lies in one
private directory that goes with it.
"""

import asyncio
import os
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from msgspec import structs

from common.config import VARIABLES, Config, load
from common.messages import Role
from compose import preset
from compose.child import Command, Turn
from compose.console import Console
from compose.local_mesh import LocalMesh
from compose.model_cache import DEFAULT_MODEL, ModelCache, default_directory
from compose.ports import LOOPBACK, free_port, is_control_port_asked, reachable, settled
from compose.readiness import Readiness

MODULE = "compose.cli"
NICE = {"prefill-worker": 5}
"""Decode steps are short and waited for: prefill yields to them where cores are few."""
TURNS: dict[Role, Turn] = {"gateway": Turn.FIRST, "router": Turn.LAST}
"""Streams end first; the router is there for everybody's goodbye."""

ONE_THREAD = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
"""One worker is one thread; more of them fight for the same cores."""

RUN_DIRECTORY = "TETRIS_RUN_DIRECTORY"
"""Set for children: the launcher's private directory; they hold the launcher's leash."""


@dataclass(frozen=True)
class Options:
    """What `tetris up` was asked for; None leaves the preset's value, port 0 takes a free one."""

    prefill: int = 2
    decode: int = 1
    model: str | None = None
    dtype: str | None = None
    port: int | None = None
    control_port: int | None = None
    preset: str = "cpu"


def up(options: Options) -> int:
    """Run the mesh until it is told to stop; the exit status.

    Raises:
        ConfigError: preset, model or port are wrong; nothing was started.
    """
    console = Console(sys.stdout)
    is_asked = is_control_port_asked(options.control_port)
    config = settled(configure(options), is_asked, console.say)
    model = ModelCache(default_directory(), console.say).resolve(config.model.path)
    config = structs.replace(config, model=structs.replace(config.model, path=str(model)))
    with tempfile.TemporaryDirectory(prefix="tetris-") as directory:
        processes = list(commands(options, config, Path(directory)))
        console.say(f"starting {len(processes)} processes for {config.model.name}")
        needed = {"prefill-worker": options.prefill, "decode-worker": options.decode}
        door = (reachable(config.gateway.host), config.gateway.port)
        probe = Readiness(*door, needed)
        return asyncio.run(_run(processes, console, probe, config))


async def _run(processes: list[Command], console: Console, probe: Readiness, config: Config) -> int:
    mesh = LocalMesh(processes, console, probe, lambda seconds: ready_text(config, seconds))
    return await mesh.run()


def ready_text(config: Config, seconds: float) -> str:
    """The ready line, with a request to try and the way to look inside."""
    gateway = config.gateway
    address = f"http://{reachable(gateway.host)}:{gateway.port}"
    control = f"http://{reachable(gateway.control_host)}:{gateway.control_port}"
    return f"""ready in {seconds:.1f} s at {address}; try:

  curl -N {address}/v1/chat/completions -H 'Content-Type: application/json' \\
    -d '{{"model": "{config.model.name}", "stream": true, "temperature": 0, "messages": [
         {{"role": "user", "content": "What is the capital of France?"}}]}}'

  tetris status --url {control}
"""


def configure(options: Options) -> Config:
    """The preset with the options, and with what this machine decides; ports may still be 0."""
    name = (
        None if options.model in (None, DEFAULT_MODEL) else Path(str(options.model)).resolve().name
    )
    overrides = {
        "model.path": options.model,
        "model.name": name,
        "model.dtype": options.dtype,
        "gateway.port": options.port,
        "gateway.control_port": options.control_port,
        "mesh.router": f"tcp://{LOOPBACK}:{free_port()}",
        "mesh.bind": LOOPBACK,
    }
    given = {key: value for key, value in overrides.items() if value is not None}
    return load(preset.find(options.preset), given)


def commands(options: Options, config: Config, directory: Path) -> Iterator[Command]:
    """What to start; writes each process's configuration into `directory`."""
    environment = _environment(directory)
    for role, name in _members(options):
        own = structs.replace(config, mesh=structs.replace(config.mesh, name=name))
        file = directory / f"{name}.toml"
        file.write_text(preset.dump(own), encoding="utf-8")
        argv = [sys.executable, "-P", "-m", MODULE, "service", role, "--config", str(file)]
        if role in NICE:
            argv += ["--nice", str(NICE[role])]
        yield Command(name, tuple(argv), environment, TURNS.get(role, Turn.MIDDLE))


def _members(options: Options) -> Iterator[tuple[Role, str]]:
    yield "router", "router"
    yield "kv-transfer", "kv-transfer"
    yield "gateway", "gateway"
    for index in range(options.prefill):
        yield "prefill-worker", f"prefill-worker-{index}"
    for index in range(options.decode):
        yield "decode-worker", f"decode-worker-{index}"


def _environment(directory: Path) -> dict[str, str]:
    # The written configuration holds them already, changed for each process.
    inherited = {key: value for key, value in os.environ.items() if key not in VARIABLES}
    sources = str(Path(__file__).resolve().parents[1])
    return {
        **inherited,
        **dict.fromkeys(ONE_THREAD, "1"),
        "HF_HUB_OFFLINE": "1",
        "PYTHONPATH": os.pathsep.join(filter(None, [sources, os.environ.get("PYTHONPATH")])),
        "PYTHONUNBUFFERED": "1",
        "TMPDIR": str(directory),
        "TOKENIZERS_PARALLELISM": "false",
        RUN_DIRECTORY: str(directory),
    }
