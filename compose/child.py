"""One service process of a local mesh."""

import asyncio
import os
import signal
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass

from compose.console import Console

LONGEST_LINE = 1 << 20
KEPT_LINES = 15


@dataclass(frozen=True)
class Command:
    """What to start, and the name under which its lines appear."""

    name: str
    argv: tuple[str, ...]
    environment: Mapping[str, str]


class Child:
    """A running command: its lines go to the console, its stdin is its leash."""

    def __init__(self, command: Command, console: Console) -> None:
        self.name = command.name
        self.ended = asyncio.Event()
        self.last_lines: deque[str] = deque(maxlen=KEPT_LINES)
        self._command = command
        self._console = console
        self._process: asyncio.subprocess.Process | None = None

    @property
    def how_it_ended(self) -> str:
        """In words: `exit status 1`, `signal SIGKILL`."""
        status = None if self._process is None else self._process.returncode
        if status is None:
            return "not ended"
        return f"signal {signal.Signals(-status).name}" if status < 0 else f"exit status {status}"

    async def start(self) -> None:
        """Start the command in a session of its own, so that Ctrl-C reaches the launcher alone."""
        self._process = await asyncio.create_subprocess_exec(
            *self._command.argv,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            env=dict(self._command.environment),
            start_new_session=True,
            limit=LONGEST_LINE,
        )

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
        """Ask it to drain and leave."""
        if self._alive():
            assert self._process is not None
            self._process.terminate()

    def kill(self) -> None:
        """End it and whatever it started, at once."""
        if self._alive():
            assert self._process is not None
            os.killpg(self._process.pid, signal.SIGKILL)

    def _alive(self) -> bool:
        return self._process is not None and self._process.returncode is None
