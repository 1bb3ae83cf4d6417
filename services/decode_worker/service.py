"""A decode worker: joins the event loop, the engine thread and the copy thread.

The event loop owns the worker and its scheduler; the engine thread runs one step at a time; the
copy thread writes arriving KV into the cache. Loop and copy thread share `Slots`, nothing else;
the copy thread's commits reach the loop through `call_soon_threadsafe`.
"""

import asyncio
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import torch

from common.generation import Sampled
from common.links.address import reachable
from common.pages import PAGE
from common.service import Process
from common.tensor.kv_cache import KvCache
from common.tensor.models import Model, load
from services.decode_worker.control import control
from services.decode_worker.engine import ModelEngine
from services.decode_worker.intake import Intake
from services.decode_worker.kv_receiver import KvReceiver
from services.decode_worker.request import Entry
from services.decode_worker.slots import Slots
from services.decode_worker.worker import Worker


async def serve(process: Process) -> None:
    """Run a decode worker until cancelled.

    Raises:
        ConfigError: the model cannot be served, or the router refuses this worker.
    """
    loop = asyncio.get_running_loop()
    with ThreadPoolExecutor(1, "engine", torch.set_num_threads, (1,)) as thread:
        model = await loop.run_in_executor(thread, _load, process)
        num_pages = -(-process.config.decode.kv_tokens // PAGE)
        cache, slots = KvCache(model.layout, num_pages), Slots(num_pages)
        worker = Worker(process, slots, model.eos_ids)
        intake = Intake(worker, slots, process.clock, loop.call_soon_threadsafe)
        bind = f"tcp://{process.config.mesh.bind}:*"
        receiver = KvReceiver(cache, bind, intake.open, slots.copied, intake.commit)
        link = reachable(receiver.endpoint, process.peer.inbox)
        packed = await loop.run_in_executor(thread, ModelEngine, model, cache)
        engine = EngineThread(packed, thread)
        stop = threading.Event()
        with ThreadPoolExecutor(1, "copy", torch.set_num_threads, (1,)) as copy:
            copying = loop.run_in_executor(copy, receiver.run, stop)
            try:
                async with asyncio.TaskGroup() as group:
                    group.create_task(control(process, worker, engine, model.layout, link))
                    await copying
            finally:
                stop.set()


class EngineThread:
    """An engine whose steps run in a thread of their own."""

    def __init__(self, engine: ModelEngine, thread: ThreadPoolExecutor) -> None:
        self._engine = engine
        self._thread = thread

    async def step(self, batch: Sequence[Entry]) -> list[Sampled | None]:
        """One token for each entry, in order."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, self._engine.step, batch)


def _load(process: Process) -> Model:
    return load(process.config.model.path, process.config.model.dtype)
