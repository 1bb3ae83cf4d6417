"""Presets: the TOML files that describe a mesh, shipped with the package or the user's own."""

import importlib.resources
from pathlib import Path

import msgspec

from common.config import Config
from common.errors import ConfigError


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


def dump(config: Config) -> str:
    """The TOML text of `config`; JSON's strings, numbers, booleans and arrays are TOML's."""
    lines: list[str] = []
    for section, table in msgspec.to_builtins(config).items():
        lines.append(f"[{section}]")
        for key, value in table.items():
            if value is not None:
                lines.append(f"{key} = {msgspec.json.encode(value).decode()}")
    return "\n".join(lines) + "\n"
