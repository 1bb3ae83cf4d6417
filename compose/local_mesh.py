"""A set of child processes that live and end together."""

import asyncio
import signal
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from compose.child import Child, Command
from compose.console import Console

Probe = Callable[[], Awaitable[str | None]]
"""None when the mesh is ready, else what it still waits for."""


@dataclass(frozen=True)
class Waits:
    """Bounds in seconds."""

    start: float = 900.0
    stop: float = 15.0
    poll: float = 0.2
    repeat: float = 10.0
    """How often an unchanged progress line appears again."""


class LocalMesh:
    """Starts the commands, announces readiness, and stops all of them when one ends.

    Args:
        ready_text: what to say once; gets the seconds since the start.
    """

    def __init__(
        self,
        commands: Sequence[Command],
        console: Console,
        probe: Probe,
        ready_text: Callable[[float], str],
        waits: Waits | None = None,
    ) -> None:
        self._children = [Child(command, console) for command in commands]
        self._console = console
        self._probe = probe
        self._ready_text = ready_text
        self._waits = waits or Waits()
        self._start = time.monotonic()
        self._over = asyncio.Event()
        self._status = 0

    async def run(self) -> int:
        """Run until a signal or the end of a child; every child is gone afterwards.

        Returns:
            0 after a signal, 1 when a child ended by itself or the start took too long.
        """
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._on_signal)
        try:
            for child in self._children:
                await child.start()
            await self._supervise()
        finally:
            self._kill()
        return self._status

    async def _supervise(self) -> None:
        async with asyncio.TaskGroup() as group:
            for child in self._children:
                group.create_task(self._watch(child))
            announcing = group.create_task(self._announce())
            await self._over.wait()
            announcing.cancel()
            await self._stop()

    async def _watch(self, child: Child) -> None:
        await child.run()
        if not self._over.is_set():
            self._console.say(
                f"{child.name} ended by itself ({child.how_it_ended}); its last lines:"
            )
            for line in child.last_lines:
                self._console.line(child.name, line)
            self._fail("stopping the mesh")

    async def _announce(self) -> None:
        said, said_at = "", 0.0
        while True:
            waiting_for = await self._probe()
            elapsed = time.monotonic() - self._start
            if waiting_for is None:
                self._console.say(self._ready_text(elapsed))
                return
            if elapsed > self._waits.start:
                self._fail(f"not ready after {elapsed:.0f} s ({waiting_for}): stopping")
                return
            if waiting_for != said or elapsed - said_at >= self._waits.repeat:
                said, said_at = waiting_for, elapsed
                self._console.say(f"{elapsed:.0f} s: {waiting_for}")
            await asyncio.sleep(self._waits.poll)

    def _fail(self, text: str) -> None:
        self._console.say(text)
        self._status = 1
        self._over.set()

    def _on_signal(self) -> None:
        if self._over.is_set():
            self._console.say("ending at once")
            self._kill()
        else:
            self._console.say("stopping; once more to end at once")
            self._over.set()

    async def _stop(self) -> None:
        for child in self._children:
            child.terminate()
        try:
            async with asyncio.timeout(self._waits.stop):
                for child in self._children:
                    await child.ended.wait()
        except TimeoutError:
            late = [child.name for child in self._children if not child.ended.is_set()]
            self._console.say(f"still there after {self._waits.stop:.0f} s: {', '.join(late)}")
            self._kill()

    def _kill(self) -> None:
        for child in self._children:
            child.kill()
