"""The one readable log of a local mesh: every line under the name of the process that wrote it."""

import os
from typing import TextIO

COLOURS = (36, 35, 34, 33, 32, 96, 95, 94, 93, 92)
LAUNCHER = "tetris"


class Console:
    """Writes lines to one stream; in colour where that is a terminal and NO_COLOR is unset."""

    def __init__(self, stream: TextIO, width: int = len("prefill-worker-0")) -> None:
        self._stream = stream
        self._width = width
        self._colour = stream.isatty() and "NO_COLOR" not in os.environ
        self._names: dict[str, int] = {}

    def say(self, text: str) -> None:
        """The launcher's own words."""
        self._write(LAUNCHER, text, code=1)

    def line(self, name: str, text: str) -> None:
        """A line that process `name` wrote."""
        index = self._names.setdefault(name, len(self._names))
        self._write(name, text, code=COLOURS[index % len(COLOURS)])

    def _write(self, name: str, text: str, code: int) -> None:
        label = f"{name:<{self._width}}"
        if self._colour:
            label = f"\x1b[{code}m{label}\x1b[0m"
        self._stream.write(f"{label} | {text}\n")
        self._stream.flush()
