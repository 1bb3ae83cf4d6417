"""A set of child processes that are kept alive, and end together."""

import asyncio
import signal
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from common.launch import LEFT, MISCONFIGURED
from compose.child import Child, Command, Turn
from compose.console import Console
from compose.restarts import Restarts

Probe = Callable[[], Awaitable[str | None]]
"""None when the mesh is ready, else what it still waits for."""


SHARES = {Turn.FIRST: 0.6, Turn.MIDDLE: 0.9, Turn.LAST: 1.0}
"""Part of the whole stop's time after which the next ones are asked, whoever is still there."""


@dataclass(frozen=True)
class Waits:
    """Bounds in seconds."""

    start: float = 900.0
    stop: float = 15.0
    poll: float = 0.2
    repeat: float = 10.0
    """How often an unchanged progress line appears again."""


class LocalMesh:
    """Starts the commands, announces readiness, starts again what ends, and stops all of them.

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
        self._was_ready = False
        self._over = asyncio.Event()
        self._status = 0

    async def run(self) -> int:
        """Run until a signal or an end that no new start can mend; no child is left afterwards.

        Returns:
            0 after a signal, 1 when a child could not be kept or the start took too long.
        """
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._on_signal)
        try:
            for child in self._children:
                await self._begin(child)
            await self._supervise()
        finally:
            self._kill()
        return self._status

    async def _supervise(self) -> None:
        async with asyncio.TaskGroup() as group:
            for child in self._children:
                group.create_task(self._keep(child))
            announcing = group.create_task(self._announce())
            await self._over.wait()
            announcing.cancel()
            await self._stop()

    async def _keep(self, child: Child) -> None:
        restarts = Restarts()
        while True:
            await child.run()
            if self._over.is_set() or not self._may_return(child):
                return
            delay = restarts.delay(time.monotonic(), child.age)
            if delay is None:
                self._give_up(child, "too often")
                return
            when = f"in {delay:g} s" if delay else "at once"
            self._say_end(child, f"starting it again {when}")
            if await self._is_over_within(delay):
                return
            await self._begin(child)

    async def _begin(self, child: Child) -> None:
        await child.start()
        self._console.say(f"{child.name} started (pid {child.pid})")
        if self._over.is_set():
            # It was not there yet when all others were asked to stop.
            child.kill()

    def _may_return(self, child: Child) -> bool:
        """Whether another life is of use; says so and acts where it is not."""
        if not self._was_ready:
            self._give_up(child, "during the start")
        elif child.status == MISCONFIGURED:
            self._give_up(child, "it cannot serve as configured")
        elif child.status == LEFT:
            self._console.say(
                f"{child.name} has left on order ({child.how_it_ended}): it is not started again"
            )
        else:
            return True
        return False

    def _give_up(self, child: Child, how: str) -> None:
        self._say_end(child, f"{how}. Its last lines:")
        for line in child.last_lines:
            self._console.line(child.name, line)
        self._fail("stopping the mesh")

    def _say_end(self, child: Child, what_now: str) -> None:
        self._console.say(f"{child.name} ended by itself ({child.how_it_ended}): {what_now}")

    async def _is_over_within(self, seconds: float) -> bool:
        try:
            async with asyncio.timeout(seconds):
                await self._over.wait()
        except TimeoutError:
            return False
        return True

    async def _announce(self) -> None:
        said, said_at = "", 0.0
        while True:
            waiting_for = await self._probe()
            elapsed = time.monotonic() - self._start
            if waiting_for is None:
                self._was_ready = True
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
        start = asyncio.get_running_loop().time()
        for turn, share in SHARES.items():
            await self._stop_turn(turn, start + share * self._waits.stop)
        late = [child.name for child in self._children if not child.ended.is_set()]
        if late:
            self._console.say(f"still there after {self._waits.stop:.0f} s: {', '.join(late)}")
            self._kill()

    async def _stop_turn(self, turn: Turn, deadline: float) -> None:
        children = [child for child in self._children if child.turn == turn]
        for child in children:
            child.terminate()
        try:
            async with asyncio.timeout_at(deadline):
                for child in children:
                    await child.ended.wait()
        except TimeoutError:
            return

    def _kill(self) -> None:
        for child in self._children:
            child.kill()
