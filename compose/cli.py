"""The `tetris` command."""

import argparse
import gc
import importlib
import importlib.metadata
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import NoReturn

from msgspec import structs

from common import keys
from common.config import Config, load
from common.errors import ConfigError
from common.launch import launch
from compose import leash, operations, preset
from compose.lab.simulate_options import add_rates, add_simulate
from compose.launcher import (
    DECODE,
    EMULATED_PRESET,
    PREFILL,
    PRESET,
    RUN_DIRECTORY,
    Options,
    up,
)
from compose.model_cache import DEFAULT_MODEL, ModelCache, default_directory
from compose.plan_options import add_plan

MISUSED = 2
MODULES = {
    "gateway": "gateway.service",
    "router": "services.router.service",
    "prefill-worker": "services.prefill_worker.service",
    "decode-worker": "services.decode_worker.service",
    "kv-transfer": "services.kv_transfer.service",
    "emulated-workers": "compose.emulated_workers",
}
"""Imported only by the process that runs them, so that the router never loads torch."""
PASSED_ON = {"bench": "loadgen.bench", "fit": "compose.fit"}
"""Commands that read their own options, in a module that nobody else has to load."""
WITHOUT_MODEL = "router"
"""It learns from its members which model they serve."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the exit status: 2 for a wrong call or configuration."""
    parser = _parser()
    options, rest = parser.parse_known_args(argv)
    if options.command in PASSED_ON:
        return int(importlib.import_module(PASSED_ON[options.command]).main(rest))
    if rest:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    try:
        return _run(options)
    except ConfigError as error:
        sys.stderr.write(f"tetris: {error}\n")
        return MISUSED
    except KeyboardInterrupt:
        return 128 + signal.SIGINT


def _run(options: argparse.Namespace) -> int:
    match options.command:
        case "up":
            _unwind_on_sigterm()
            wanted = {key: value for key, value in vars(options).items() if key != "command"}
            return up(Options(**wanted))
        case "service":
            return _service(options.role, options.config, options.nice)
        case "plan":
            return int(importlib.import_module("compose.plan_command").run(options))
        case "simulate" | "rates":
            _unwind_on_sigterm()
            return int(importlib.import_module("compose.lab.simulate_command").run(options))
        case "key":
            return _key(options.name, options.per_minute)
        case command if command in operations.COMMANDS:
            return operations.run(options)
        case _:
            _unwind_on_sigterm()
            sys.stdout.write(f"{_models().resolve(options.model)}\n")
            return 0


def _key(name: str, per_minute: int | None) -> int:
    key = keys.fresh()
    line = keys.line(name, key, per_minute)
    sys.stderr.write("the key, shown this once; below, the line for the file of keys\n")
    sys.stdout.write(f"{key}\n{line}\n")
    return 0


def _service(role: str, config: str, nice: int) -> NoReturn:
    if RUN_DIRECTORY in os.environ:
        leash.hold(Path(os.environ[RUN_DIRECTORY]))
    os.nice(nice)
    _start(role, _resolved(role, load(preset.find(config))))


def _resolved(role: str, config: Config) -> Config:
    if role == WITHOUT_MODEL or config.model.is_emulated:
        return config
    path = str(_models().resolve(config.model.path))
    return structs.replace(config, model=structs.replace(config.model, path=path))


def _start(role: str, config: Config) -> NoReturn:
    serve = importlib.import_module(MODULES[role]).serve
    # What was imported stays: no collection of garbage has to walk through it again.
    gc.collect()
    gc.freeze()
    status = launch(role, serve, config)
    # Everything is handed over and closed. To take torch apart as well would only keep the
    # launcher, and whoever waits for this process's next life, waiting.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def _models() -> ModelCache:
    return ModelCache(default_directory(), lambda text: sys.stderr.writelines([text, "\n"]))


def _unwind_on_sigterm() -> None:
    def leave(number: int, frame: FrameType | None) -> NoReturn:
        sys.exit(128 + signal.SIGTERM)

    signal.signal(signal.SIGTERM, leave)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="tetris",
        description="Long-context LLM serving with chunkwise dynamic sequence parallelism.",
    )
    parser.add_argument("--version", action="version", version=_version())
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_up(commands.add_parser("up", help="run a mesh on this machine"))
    operations.add_status(commands.add_parser("status", help="members and load of a running mesh"))
    operations.add_ledger(commands.add_parser("ledger", help="who holds which KV and backends"))
    operations.add_drain(commands.add_parser("drain", help="have a member hand over and leave"))
    add_plan(commands.add_parser("plan", help="plan one prompt and say why, without a mesh"))
    add_simulate(commands.add_parser("simulate", help="serve a workload in virtual time"))
    add_rates(commands.add_parser("rates", help="profile improvement rates by simulation"))
    operations.add_update(commands.add_parser("update", help="show or change how plans are made"))
    _add_key(commands.add_parser("key", help="a new API key, and its line for the file of keys"))
    commands.add_parser("bench", help="measure a running mesh", add_help=False)
    commands.add_parser("fit", help="a latency model out of measured chunks", add_help=False)
    _add_service(commands.add_parser("service", help="run one service in the foreground"))
    _add_model(commands.add_parser("model", help="prepare models"))
    return parser


def _add_up(parser: argparse.ArgumentParser) -> None:
    several = "(default: {}, or the preset's where it is emulated)"
    parser.add_argument(
        "--prefill", type=_count, metavar="N", help=f"prefill workers {several.format(PREFILL)}"
    )
    parser.add_argument(
        "--decode", type=_count, metavar="N", help=f"decode workers {several.format(DECODE)}"
    )
    parser.add_argument(
        "--emulated", action="store_true", help="without a model, in the time that one would take"
    )
    parser.add_argument("--model", help=f"{DEFAULT_MODEL} or a local Hugging Face directory")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"])
    parser.add_argument(
        "--port", type=int, help="of the HTTP API, 0 for any (default: the preset's)"
    )
    parser.add_argument(
        "--control-port",
        type=int,
        help="of `tetris status` and the like (default: the preset's, or a free one)",
    )
    parser.add_argument(
        "--preset",
        help=f"name or TOML file (default: {PRESET}, or {EMULATED_PRESET} with --emulated)",
    )


def _add_service(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("role", choices=list(MODULES))
    parser.add_argument("--config", required=True, help="TOML file or name of a preset")
    parser.add_argument("--nice", type=int, default=0, help="priority to give up")


def _add_key(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="of whoever gets it")
    parser.add_argument("--per-minute", type=_requests, metavar="N", help="requests it may make")


def _add_model(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    prepare = actions.add_parser("prepare", help="convert a model and print its directory")
    prepare.add_argument("--model", default=DEFAULT_MODEL)


def _count(text: str) -> int:
    count = int(text)
    if not 1 <= count <= 64:
        raise argparse.ArgumentTypeError("must be between 1 and 64")
    return count


def _requests(text: str) -> int:
    count = int(text)
    if not 1 <= count <= 999_999_999:
        raise argparse.ArgumentTypeError("must be between 1 and 999999999")
    return count


def _version() -> str:
    try:
        return f"tetris {importlib.metadata.version('tetris-serve')}"
    except importlib.metadata.PackageNotFoundError:
        return "tetris (not installed)"


if __name__ == "__main__":
    sys.exit(main())
