"""The schedule as `tetris update` shows and takes it: lines and words of KEY=VALUE."""

from collections.abc import Iterable

import msgspec

from common.errors import ConfigError
from common.schedule import Report
from compose.table import printable


def schedule_text(report: Report) -> str:
    """What is in force; every line but the last can be given back to `tetris update`."""
    state = report.state
    load = "not counted yet" if state.load is None else f"{state.load:.2f} requests/s"
    since = "as configured" if state.changed is None else f"since {printable(state.changed)}"
    tail = f"# {since}; load {load}; improvement rate in force {state.improvement_rate:g}"
    return "\n".join([*_lines(msgspec.to_builtins(report.schedule)), tail])


def change_in(words: Iterable[str]) -> dict[str, object]:
    """The body of `POST /update` for words such as `priced.order=slope:3`.

    Raises:
        ConfigError: a word is not of that form.
    """
    change: dict[str, object] = {}
    for word in words:
        key, equals, text = word.partition("=")
        if not key or not equals:
            raise ConfigError(f"{word!r} is not KEY=VALUE")
        # Loads, the keys of a mapping, may have a point of their own.
        table, _, inner = key.partition(".")
        if not inner:
            change[table] = _value(text)
            continue
        known = change.setdefault(table, {})
        if not isinstance(known, dict):
            raise ConfigError(f"{table} is there both whole and in part")
        known[inner] = _value(text)
    return change


def _value(text: str) -> object:
    try:
        return msgspec.json.decode(text)
    except msgspec.DecodeError:
        return text


def _lines(tree: dict[str, object], place: str = "") -> Iterable[str]:
    for key, value in tree.items():
        if isinstance(value, dict) and value:
            yield from _lines(value, f"{place}{key}.")
        else:
            shown = value if isinstance(value, str) else msgspec.json.encode(value).decode()
            yield f"{place}{key}={printable(shown)}"
