"""Named places where tests inject a fault, as `TETRIS_FAILPOINTS=kv.send=kill:3,ring.step=raise`.

`name=action` acts whenever the place is reached, `name=action:n` on the n-th time alone, and
`process@name=action` in the process of that name alone. Actions: `kill` (SIGKILL to this
process), `stop` (SIGSTOP), `raise` (`InjectedFault`), `sleep(seconds)` (the whole thread stands
still). Each is told on stderr before it acts, in one line of JSON. Tests in the same process may
hook a callable instead.

A process with `TETRIS_FAILPOINTS_DIR` reads `<directory>/<its name>` anew at each SIGUSR2.
"""

import itertools
import json
import os
import re
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from common.errors import ConfigError, TetrisError

VARIABLE = "TETRIS_FAILPOINTS"
DIRECTORY = "TETRIS_FAILPOINTS_DIR"
_ITEM = re.compile(
    r"((?P<process>[A-Za-z0-9][A-Za-z0-9._-]*)@)?"
    r"(?P<name>[a-z][a-z0-9_.]*)="
    r"(?P<action>kill|stop|raise|sleep\((?P<seconds>\d+(\.\d+)?)\))"
    r"(:(?P<count>[1-9]\d*))?"
)
_actions: dict[str, Callable[[], None]] = {}


class InjectedFault(TetrisError):
    """The fault of a failpoint; no service expects it."""


@dataclass(frozen=True)
class _Item:
    process: str | None
    name: str
    action: str
    seconds: float | None
    count: int | None


def hit(name: str) -> None:
    """Reach a named place; free when no failpoint is set."""
    if _actions and (act := _actions.get(name)) is not None:
        act()


def configure(spec: str, process: str = "") -> None:
    """Replace all failpoints by those of a specification, none when it is empty.

    Args:
        spec: items between commas or on lines of their own.
        process: name of this process; items for others are only checked.

    Raises:
        ConfigError: the specification cannot be read; nothing has changed then.
    """
    items = [_parse(item) for item in re.split(r"[,\n]", spec) if item.strip()]
    made = {i.name: _made(i, process) for i in items if i.process in (None, process)}
    _actions.clear()
    _actions.update(made)


def reread(directory: str, process: str) -> str:
    """Replace all failpoints by those of this process's file; returns what the file says.

    Raises:
        ConfigError: the file cannot be read; nothing has changed then.
    """
    path = Path(directory, process)
    try:
        spec = path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: {error}") from None
    configure(spec, process)
    return spec


@contextmanager
def hooked(name: str, action: Callable[[], None]) -> Iterator[None]:
    """Call `action` in the thread that reaches the place, as long as the context lasts."""
    before = _actions.get(name)
    _actions[name] = action
    try:
        yield
    finally:
        del _actions[name]
        if before is not None:
            _actions[name] = before


def _parse(item: str) -> _Item:
    match = _ITEM.fullmatch(item.strip())
    if match is None:
        raise ConfigError(
            f"{VARIABLE}: cannot read {item!r}; expected [process@]name=action[:count]"
        )
    seconds, count = match["seconds"], match["count"]
    return _Item(
        match["process"],
        match["name"],
        match["action"],
        float(seconds) if seconds else None,
        int(count) if count else None,
    )


def _made(item: _Item, process: str) -> Callable[[], None]:
    fault, hits = _fault(item), itertools.count(1)

    def act() -> None:
        number = next(hits)
        if item.count in (None, number):
            _tell(item, process, number)
            fault()

    return act


def _fault(item: _Item) -> Callable[[], None]:
    seconds = item.seconds
    if seconds is not None:
        return lambda: time.sleep(seconds)
    if item.action != "raise":
        number = signal.SIGKILL if item.action == "kill" else signal.SIGSTOP
        return lambda: os.kill(os.getpid(), number)

    def fail() -> None:
        raise InjectedFault(item.name)

    return fail


def _tell(item: _Item, process: str, number: int) -> None:
    # Straight to the pipe, where it outlives this process.
    line = {
        "event": "failpoint",
        "name": process,
        "point": item.name,
        "action": item.action,
        "hit": number,
    }
    os.write(2, f"{json.dumps(line)}\n".encode())
