"""Presets: the TOML files that describe a mesh, shipped with the package or the user's own."""

import importlib.resources
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from common.config import Config, ModelConfig, RouterConfig, load
from common.errors import ConfigError
from common.latency import PRESETS

MOST_INSTANCES = 65536
"""Of one pool, as in the compiled search."""


def find(name: str) -> Path:
    """The preset of this name, or the file at this path.

    Raises:
        ConfigError: there is neither.
    """
    shipped = Path(str(importlib.resources.files("compose") / "presets"))
    for path in (shipped / f"{name}.toml", Path(name).expanduser()):
        if path.is_file():
            return path
    names = ", ".join(sorted(path.stem for path in shipped.glob("*.toml")))
    raise ConfigError(f"no preset {name!r}: give a TOML file or one of {names}")


def cluster(name: str) -> Config:
    """The configuration of a preset, or one around the latency model of that name.

    Raises:
        ConfigError: there is neither, or something is wrong with it.
    """
    try:
        path = find(name)
    except ConfigError:
        if not (PRESETS / f"{name}.toml").is_file():
            raise
        model = ModelConfig(path="emulated", name=name)
        return Config(model=model, router=RouterConfig(latency=name))
    return load(path)


def instances(
    config: Config, nodes: int | None = None, per_node: int | None = None
) -> tuple[int, int]:
    """Machines and prefill instances on each of them: the preset's, where none are given.

    Raises:
        ConfigError: more than a planner takes.
    """
    nodes, per_node = nodes or config.emulated.nodes, per_node or config.emulated.instances_per_node
    if nodes * per_node > MOST_INSTANCES:
        raise ConfigError(
            f"--nodes, --instances-per-node: {nodes} times {per_node} is more than "
            f"{MOST_INSTANCES} prefill instances"
        )
    return nodes, per_node


def dump(config: Config) -> str:
    """The TOML text of `config`; JSON's strings, numbers, booleans and arrays are TOML's."""
    tables = msgspec.to_builtins(config).items()
    return "\n".join(line for name, table in tables for line in _lines(name, table)) + "\n"


def _lines(name: str, table: dict[str, Any]) -> Iterator[str]:
    """A table, then the tables inside it."""
    yield f"[{name}]"
    for key, value in table.items():
        if value is not None and not isinstance(value, dict):
            yield f"{_json(key)} = {_json(value)}"
    for key, value in table.items():
        if isinstance(value, dict):
            yield from _lines(f"{name}.{key}", value)


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()
