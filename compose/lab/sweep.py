"""Many experiments on all cores: one process for each, that reads and writes lines of JSON."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

import msgspec

from common.errors import ConfigError, RequestFailed, TetrisError
from compose.lab.experiment import Experiment, Figures, run

MAX_LINE = 1 << 22
"""Bytes; a schedule with its mapping is a few hundred."""

Progress = Callable[[int], None]
"""Told after each run how many are done."""


class Answer(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The figures of a run, or why there are none."""

    figures: Figures | None = None
    why: str = ""


def sweep(
    experiments: Sequence[Experiment], progress: Progress = lambda done: None, cores: int = 0
) -> list[Figures]:
    """The figures of all experiments, in their order.

    Args:
        experiments: independent of each other.
        progress: called in this process.
        cores: processes; 0 for as many as there are cores.

    Raises:
        ConfigError: one of them cannot be run, and why.
    """
    cores = min(cores or len(os.sched_getaffinity(0)), len(experiments))
    if cores <= 1:
        found = []
        for experiment in experiments:
            found.append(_here(experiment))
            progress(len(found))
        return found
    return asyncio.run(_spread(experiments, progress, cores))


def _here(experiment: Experiment) -> Figures:
    try:
        return run(experiment)
    except RequestFailed as error:
        raise ConfigError(str(error)) from None


async def _spread(
    experiments: Sequence[Experiment], progress: Progress, cores: int
) -> list[Figures]:
    found: dict[int, Figures] = {}
    left = list(enumerate(experiments))[::-1]

    async def work(child: asyncio.subprocess.Process) -> None:
        while left:
            index, experiment = left.pop()
            found[index] = await _ask(child, experiment)
            progress(len(found))

    try:
        async with AsyncExitStack() as stack:
            # All before the first one can fail: asyncio loses what is cancelled on its way.
            children = [await stack.enter_async_context(_child()) for _ in range(cores)]
            async with asyncio.TaskGroup() as group:
                for child in children:
                    group.create_task(work(child))
    except* ConfigError as errors:
        raise ConfigError(str(errors.exceptions[0])) from None
    return [found[index] for index in range(len(experiments))]


@asynccontextmanager
async def _child() -> AsyncIterator[asyncio.subprocess.Process]:
    """A process that answers experiments, and is gone afterwards."""
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "compose.lab.sweep",
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, limit=MAX_LINE,
    )  # fmt: skip
    try:
        yield child
    finally:
        if child.returncode is None:
            child.kill()
        # Reads what is left of its output, without which its pipe stays open.
        await child.communicate()


async def _ask(child: asyncio.subprocess.Process, experiment: Experiment) -> Figures:
    assert child.stdin is not None
    assert child.stdout is not None
    try:
        child.stdin.write(msgspec.json.encode(experiment) + b"\n")
        await child.stdin.drain()
        answer = msgspec.json.decode(await child.stdout.readline(), type=Answer)
    except (OSError, ValueError, msgspec.DecodeError):
        # Its pipe is closed, or what came out of it is no answer, as nothing is none.
        raise ConfigError("a process of the sweep has died") from None
    if answer.figures is None:
        raise ConfigError(answer.why)
    return answer.figures


def serve() -> None:
    """Answer one experiment a line until the input ends, which is how an interrupt gets here."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for line in sys.stdin.buffer:
        try:
            answer = Answer(run(msgspec.json.decode(line, type=Experiment)))
        except TetrisError as error:
            answer = Answer(why=str(error))
        sys.stdout.buffer.write(msgspec.json.encode(answer) + b"\n")
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    serve()
