"""One service process of a local mesh."""

import asyncio
import enum
import os
import signal
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass

from common import failpoints
from compose.console import Console

LONGEST_LINE = 1 << 20
KEPT_LINES = 15


class Turn(enum.IntEnum):
    """The order of a stop: who hands over goes before those who take."""

    FIRST = 0
    MIDDLE = 1
    LAST = 2


@dataclass(frozen=True)
class Command:
    """What to start, and the name under which its lines appear."""

    name: str
    argv: tuple[str, ...]
    environment: Mapping[str, str]
    turn: Turn = Turn.MIDDLE
    """When it is asked to stop."""


class Child:
    """A running command: its lines go to the console, its stdin is its leash."""

    def __init__(self, command: Command, console: Console) -> None:
        self.name = command.name
        self.turn = command.turn
        self.ended = asyncio.Event()
        self.last_lines: deque[str] = deque(maxlen=KEPT_LINES)
        self._command = command
        self._console = console
        self._environment = dict(command.environment)
        self._process: asyncio.subprocess.Process | None = None
        self._began = 0.0

    @property
    def pid(self) -> int | None:
        """Of its latest life."""
        return None if self._process is None else self._process.pid

    @property
    def status(self) -> int | None:
        """How its latest life ended, negative by a signal; None before."""
        return None if self._process is None else self._process.returncode

    @property
    def age(self) -> float:
        """Seconds since its latest start."""
        return time.monotonic() - self._began

    @property
    def how_it_ended(self) -> str:
        """In words: `exit status 1`, `signal SIGKILL`."""
        status = self.status
        if status is None:
            return "not ended"
        return f"signal {signal.Signals(-status).name}" if status < 0 else f"exit status {status}"

    async def start(self) -> None:
        """Start the command, or start it again; in a session of its own, out of Ctrl-C's reach."""
        self.ended.clear()
        self._process = await asyncio.create_subprocess_exec(
            *self._command.argv,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            env=self._environment,
            start_new_session=True,
            limit=LONGEST_LINE,
        )
        self._began = time.monotonic()
        # A fault is injected once: its next life is to live.
        self._environment.pop(failpoints.VARIABLE, None)

    async def run(self) -> None:
        """Pass on its lines until it has ended."""
        assert self._process is not None
        assert self._process.stdout is not None
        try:
            async for line in self._process.stdout:
                text = line.decode("utf-8", errors="replace").rstrip()
                self.last_lines.append(text)
                self._console.line(self.name, text)
            await self._process.wait()
        finally:
            self.ended.set()

    def terminate(self) -> None:
        """Ask it to drain and leave, even if somebody has stopped it."""
        if self._alive():
            assert self._process is not None
            self._process.terminate()
            self._process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        """End it and whatever it started, at once."""
        if self._alive():
            assert self._process is not None
            os.killpg(self._process.pid, signal.SIGKILL)

    def _alive(self) -> bool:
        return self._process is not None and self._process.returncode is None
