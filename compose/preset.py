"""Presets: the TOML files that describe a mesh, shipped with the package or the user's own."""

import importlib.resources
import tomllib
from collections.abc import Mapping
from pathlib import Path

import msgspec

from common.config import Config
from common.errors import ConfigError

Table = dict[str, object]
Tables = dict[str, Table]


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


def load(path: Path, overrides: Mapping[str, Mapping[str, object]]) -> Config:
    """The preset at `path`, checked in whole.

    `overrides` (table → key → value) replace its keys, except where they are None.

    Raises:
        ConfigError: unreadable, or a key or value that is wrong, naming file and key.
    """
    tables = _read(path)
    for name, table in overrides.items():
        given = {key: value for key, value in table.items() if value is not None}
        tables.setdefault(name, {}).update(given)
    try:
        return msgspec.convert(tables, Config)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{path}: {error}") from error


def dump(config: Config) -> str:
    """The TOML text of `config`."""
    return "\n".join(
        f"[{name}]\n" + "".join(_lines(table))
        for name, table in msgspec.to_builtins(config).items()
    )


def _read(path: Path) -> Tables:
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{path}: {error}") from error
    for name, table in tables.items():
        if not isinstance(table, dict):
            raise ConfigError(f"{path}: {name} stands outside of a table")
    return tables


def _lines(table: Table) -> list[str]:
    return [f"{key} = {_value(value)}\n" for key, value in table.items() if value is not None]


def _value(value: object) -> str:
    """JSON's strings, numbers, booleans and arrays are TOML's."""
    return msgspec.json.encode(value).decode()
