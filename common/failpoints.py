"""Named places where tests inject a fault, as `TETRIS_FAILPOINTS=kv.layer=kill:3,ring.step=raise`.

`name=action` acts whenever the place is reached, `name=action:n` on the n-th time alone. Actions:
`kill` (SIGKILL to this process), `raise` (`InjectedFault`), `sleep(seconds)` (the whole thread
stands still). Tests in the same process may hook a callable instead.
"""

import itertools
import os
import re
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from common.errors import ConfigError, TetrisError

VARIABLE = "TETRIS_FAILPOINTS"
_ITEM = re.compile(
    r"(?P<name>[a-z][a-z0-9_.]*)=(?P<action>kill|raise|sleep\((?P<seconds>\d+(\.\d+)?)\))"
    r"(:(?P<count>[1-9]\d*))?"
)
_actions: dict[str, Callable[[], None]] = {}


class InjectedFault(TetrisError):
    """The fault of a failpoint; no service expects it."""


def hit(name: str) -> None:
    """Reach a named place; free when no failpoint is set."""
    if _actions and name in _actions:
        _actions[name]()


def configure(spec: str) -> None:
    """Replace all failpoints by those of a specification, none when it is empty.

    Raises:
        ConfigError: the specification cannot be read; nothing has changed then.
    """
    made = dict(_parse(item) for item in spec.split(",") if item)
    _actions.clear()
    _actions.update(made)


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


def _parse(item: str) -> tuple[str, Callable[[], None]]:
    match = _ITEM.fullmatch(item.strip())
    if match is None:
        raise ConfigError(f"{VARIABLE}: cannot read {item!r}; expected name=action[:count]")
    action = _action(match["name"], match["action"], match["seconds"])
    return match["name"], _only(int(match["count"]), action) if match["count"] else action


def _action(name: str, action: str, seconds: str | None) -> Callable[[], None]:
    if seconds is not None:
        return lambda: time.sleep(float(seconds))
    if action == "kill":
        return lambda: os.kill(os.getpid(), signal.SIGKILL)

    def fail() -> None:
        raise InjectedFault(name)

    return fail


def _only(count: int, action: Callable[[], None]) -> Callable[[], None]:
    hits = itertools.count(1)

    def act() -> None:
        if next(hits) == count:
            action()

    return act
