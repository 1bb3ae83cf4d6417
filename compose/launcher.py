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

from common.config import EMULATED, VARIABLES, Config, load
from common.errors import ConfigError
from compose import preset
from compose.child import Command, Turn
from compose.console import Console
from compose.local_mesh import LocalMesh
from compose.model_cache import DEFAULT_MODEL, ModelCache, default_directory
from compose.ports import LOOPBACK, free_port, is_control_port_asked, reachable, settled
from compose.readiness import Readiness

MODULE = "compose.cli"
PREFILL, DECODE = 2, 1
"""Workers with a model, where none are asked for."""
PRESET, EMULATED_PRESET = "cpu", "a100-llama3-8b"
NICE = {"prefill-worker": 5}
"""Decode steps are short and waited for: prefill yields to them where cores are few."""
TURNS = {"gateway": Turn.FIRST, "router": Turn.LAST}
"""Streams end first; the router is there for everybody's goodbye."""

ONE_THREAD = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
"""One worker is one thread; more of them fight for the same cores."""

RUN_DIRECTORY = "TETRIS_RUN_DIRECTORY"
"""Set for children: the launcher's private directory; they hold the launcher's leash."""


@dataclass(frozen=True)
class Options:
    """What `tetris up` was asked for; None leaves the default or the preset's value."""

    prefill: int | None = None
    decode: int | None = None
    model: str | None = None
    dtype: str | None = None
    port: int | None = None
    """0 takes a free one, here and below."""
    control_port: int | None = None
    preset: str | None = None
    emulated: bool = False


def up(options: Options) -> int:
    """Run the mesh until it is told to stop; the exit status.

    Raises:
        ConfigError: preset, model or port are wrong; nothing was started.
    """
    console = Console(sys.stdout)
    is_asked = is_control_port_asked(options.control_port)
    config = settled(configure(options), is_asked, console.say)
    if not config.model.is_emulated:
        model = ModelCache(default_directory(), console.say).resolve(config.model.path)
        config = structs.replace(config, model=structs.replace(config.model, path=str(model)))
    with tempfile.TemporaryDirectory(prefix="tetris-") as directory:
        processes = list(commands(options, config, Path(directory)))
        console.say(f"starting {len(processes)} processes for {_model_text(config)}")
        needed = dict(
            zip(("prefill-worker", "decode-worker"), counts(options, config), strict=True)
        )
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
    # A real model ends by itself.
    limit = ' "max_tokens": 64,' if config.model.is_emulated else ""
    return f"""ready in {seconds:.1f} s at {address}; try:

  curl -N {address}/v1/chat/completions -H 'Content-Type: application/json' \\
    -d '{{"model": "{config.model.name}", "stream": true, "temperature": 0,{limit} "messages": [
         {{"role": "user", "content": "What is the capital of France?"}}]}}'

  tetris status --url {control}
"""


def _model_text(config: Config) -> str:
    name, emulated = config.model.name, config.emulated
    if not config.model.is_emulated:
        return name
    return f"{name}, emulated: {emulated.num_prefill} prefill and {emulated.decode} decode workers"


def configure(options: Options) -> Config:
    """The preset with the options, and with what this machine decides; ports may still be 0.

    Raises:
        ConfigError: something is wrong with the preset, or there are a model and --emulated.
    """
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
    default = EMULATED_PRESET if options.emulated else PRESET
    if options.emulated:
        overrides["model.path"] = _no_model(options)
    given = {key: value for key, value in overrides.items() if value is not None}
    config = load(preset.find(options.preset or default), given)
    return _emulated(options, config) if config.model.is_emulated else config


def _no_model(options: Options) -> str:
    if options.model is not None or options.dtype is not None:
        raise ConfigError("--emulated is without a model: leave --model and --dtype out")
    return EMULATED


def _emulated(options: Options, config: Config) -> Config:
    """Such a mesh plans by the preset's own latency model: there is no machine to measure."""
    emulated = structs.replace(
        config.emulated,
        prefill=options.prefill or config.emulated.num_prefill,
        decode=options.decode or config.emulated.decode,
    )
    router = structs.replace(config.router, calibrate_seconds=0.0)
    return structs.replace(config, emulated=emulated, router=router)


def counts(options: Options, config: Config) -> tuple[int, int]:
    """How many prefill and how many decode workers there are to be."""
    if config.model.is_emulated:
        return config.emulated.num_prefill, config.emulated.decode
    return options.prefill or PREFILL, options.decode or DECODE


def commands(options: Options, config: Config, directory: Path) -> Iterator[Command]:
    """What to start; writes each process's configuration into `directory`."""
    environment = _environment(directory)
    for role, name in _members(options, config):
        own = structs.replace(config, mesh=structs.replace(config.mesh, name=name))
        file = directory / f"{name}.toml"
        file.write_text(preset.dump(own), encoding="utf-8")
        argv = [sys.executable, "-P", "-m", MODULE, "service", role, "--config", str(file)]
        if role in NICE:
            argv += ["--nice", str(NICE[role])]
        yield Command(name, tuple(argv), environment, TURNS.get(role, Turn.MIDDLE))


def _members(options: Options, config: Config) -> Iterator[tuple[str, str]]:
    for role in ("router", "kv-transfer", "gateway"):
        yield role, role
    if config.model.is_emulated:
        yield "emulated-workers", "emulated-workers"
        return
    prefill, decode = counts(options, config)
    for index in range(prefill):
        yield "prefill-worker", f"prefill-worker-{index}"
    for index in range(decode):
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
