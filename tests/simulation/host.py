"""A process of the simulated mesh that can crash, freeze, be told to stop, and start again."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import structlog

from common.clock import LoopClock
from common.config import Config
from common.life import live
from common.memory_transport import MemoryNetwork
from common.messages import Peer, Role
from common.metrics import Metrics
from common.service import Process
from tests.simulation.history import History, TappedMesh
from tests.simulation.virtual_loop import Life

Serve = Callable[["Host", Process], Awaitable[None]]


class Host:
    """One named place in the mesh and the process that runs there now, if any.

    Args:
        report: told of exceptions that end a process, which are bugs.
    """

    def __init__(
        self,
        role: Role,
        name: str,
        node: str,
        serve: Serve,
        report: Callable[[str], None],
    ) -> None:
        self.role: Role = role
        self.name = name
        self.part: Any = None
        """What the process has put here for others to look at: its books."""
        self.process: Process | None = None
        self.num_lives = 0
        self._node = node
        self._serve = serve
        self._report = report
        self._life: Life | None = None
        self._task: asyncio.Task[None] | None = None
        self._services: asyncio.TaskGroup | None = None

    @property
    def is_up(self) -> bool:
        """Whether a process runs here, frozen or not."""
        return self._life is not None

    @property
    def is_frozen(self) -> bool:
        """Whether the process stands still."""
        return self._life is not None and self._life.is_frozen

    def start(
        self,
        group: asyncio.TaskGroup,
        config: Config,
        network: MemoryNetwork,
        history: History,
    ) -> None:
        """Begin a life, newer than all before."""
        assert self._life is None, f"{self.name} runs"
        self.num_lives += 1
        incarnation = int(asyncio.get_running_loop().time() * 1e9) + self.num_lives
        life = self._life = Life(self.name)
        is_router = self.role == "router"
        endpoint = config.mesh.router if is_router else f"mem://{self.name}/{incarnation}"

        def begin() -> None:
            clock, metrics = LoopClock(), Metrics()
            mesh = TappedMesh(network.bind(endpoint), config.mesh, metrics, clock)
            mesh.history = history
            log = structlog.make_filtering_bound_logger(50)(None, [], {})
            peer = Peer(self.name, incarnation, mesh.inbox)
            process = Process(config, mesh, clock, metrics, log, peer, self._node)
            self.process = process
            self._task = group.create_task(self._run(life, process), context=life.context)

        life.context.run(begin)

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run something in this process; it ends when the process does."""
        assert self._services is not None and self._life is not None, "only while it runs"
        return self._services.create_task(work, context=self._life.context)

    def stop(self) -> None:
        """SIGTERM."""
        if self.process is not None:
            self.process.stopping.set()

    def crash(self) -> None:
        """SIGKILL: nothing of it is sent any more, whatever it does while it falls apart."""
        life, process, task = self._life, self.process, self._task
        if life is None or process is None or task is None:
            return
        life.is_dead = True
        process.mesh.kill()
        self._end()
        task.cancel()
        life.thaw()

    def freeze(self) -> None:
        """SIGSTOP."""
        if self._life is not None:
            self._life.freeze()

    def thaw(self) -> None:
        """SIGCONT."""
        if self._life is not None:
            self._life.thaw()

    async def _run(self, life: Life, process: Process) -> None:
        try:
            await self._serve_to_the_end(process)
        except ExceptionGroup as error:
            if not life.is_dead:
                self._report(f"{self.name} has failed: {_causes(error)}")
        finally:
            process.mesh.kill()
            if self._life is life:
                self._end()

    async def _serve_to_the_end(self, process: Process) -> None:
        async def serve(process: Process) -> None:
            async with asyncio.TaskGroup() as self._services:
                await self._serve(self, process)

        await live(process, serve)
        await process.mesh.close()

    def _end(self) -> None:
        self._life = self._services = self._task = self.process = None


def _causes(error: BaseException) -> str:
    if isinstance(error, BaseExceptionGroup):
        return "; ".join(_causes(one) for one in error.exceptions)
    frame = error.__traceback__
    while frame is not None and frame.tb_next is not None:
        frame = frame.tb_next
    where = "" if frame is None else f" at {frame.tb_frame.f_code.co_qualname}:{frame.tb_lineno}"
    return f"{type(error).__name__}: {error}{where}"
