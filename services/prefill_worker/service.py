"""A prefill worker: joins the event loop, the engine thread and the copy thread.

The loop owns all books and decides; the engine thread owns the model and the links of ring and
balancing; the copy thread owns the KV link. Work goes out through queues, events come back with
`call_soon_threadsafe`.
"""

import asyncio
import queue
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial

import torch

from common.errors import Aborted, LinkTimeout, OutOfPages, RequestFailed, WireError
from common.links.address import reachable
from common.links.zmq import ZmqLink
from common.messages import KvAck
from common.pages import Owner
from common.service import Process
from common.tensor.models import load
from services.prefill_worker.control import control
from services.prefill_worker.device import processor
from services.prefill_worker.engine import Bounds, Engine, Links
from services.prefill_worker.hands import Listener, Slots, Work
from services.prefill_worker.instance import Instance
from services.prefill_worker.kv_sender import KvSender
from services.prefill_worker.send_manager import SendManager
from services.prefill_worker.transfer import Parcel

PROGRESS = 5.0
"""Seconds between two lines of the log while the model loads."""


class EngineThread:
    """Makes the engine, runs its chunks one by one, closes it; all in the thread of `run`."""

    def __init__(self, build: Callable[[], Engine], loop: asyncio.AbstractEventLoop) -> None:
        self.loaded: asyncio.Future[Engine] = loop.create_future()
        self._build = build
        self._loop = loop
        self._queue: queue.Queue[tuple[Work, Listener] | None] = queue.Queue(2)
        self._engine: Engine | None = None
        self._is_stopped = False

    def start(self, work: Work, listener: Listener) -> None:
        """Run a chunk and report to `listener` in the event loop; one at a time."""
        self._queue.put_nowait((work, listener))

    def stop(self) -> None:
        """End soon and in silence; the chunk that runs now would wait for a group without it."""
        self._is_stopped = True
        if self._engine is not None:
            self._engine.stop()
        self._queue.put_nowait(None)

    def run(self) -> None:
        """Serve until stopped; whatever is not the fault of one request ends the thread."""
        engine = self._engine = self._build()
        try:
            self._loop.call_soon_threadsafe(self.loaded.set_result, engine)
            while (item := self._queue.get()) is not None:
                self._compute(engine, *item)
        finally:
            engine.close()

    def _compute(self, engine: Engine, work: Work, listener: Listener) -> None:
        run, post = work.run, self._post

        def on_ready() -> None:
            post(listener.on_ready, run)

        def on_layer(layer: int) -> None:
            spans = engine.spans(run.request, run.attempt, run.index)
            post(listener.on_layer, run, layer, spans)

        try:
            result = engine.run(run, work.ids, on_ready, on_layer)
        except (RequestFailed, LinkTimeout, OutOfPages, WireError, Aborted) as error:
            post(listener.on_failed, run, error)
        else:
            post(listener.on_done, run, result)

    def _post(self, callback: Callable[..., object], *args: object) -> None:
        # Once stopped, nobody is there to hear it: the mesh may be closed.
        if not self._is_stopped:
            self._loop.call_soon_threadsafe(callback, *args)


class Threads:
    """The hands of an instance: engine thread and copy thread."""

    def __init__(self, thread: EngineThread, engine: Engine, sender: KvSender) -> None:
        self._thread = thread
        self._engine = engine
        self._sender = sender

    def start(self, work: Work, listener: Listener) -> None:
        """Compute a chunk; `listener` is told what becomes of it."""
        self._thread.start(work, listener)

    def submit(self, parcel: Parcel) -> None:
        """Send KV."""
        self._sender.submit(parcel)

    def abort(self, owner: Owner) -> None:
        """End the computation of an attempt."""
        self._engine.abort(*owner)

    def release(self, owner: Owner) -> None:
        """Free the slots of an attempt."""
        self._engine.release(*owner)

    def slots(self) -> Slots:
        """Who holds what."""
        books = self._engine.holdings
        return Slots(books.total_slots, books.free_slots, books.held())


async def serve(process: Process) -> None:
    """Load the model, join the mesh and compute chunks until cancelled."""
    thread = EngineThread(partial(build, process), asyncio.get_running_loop())
    async with asyncio.TaskGroup() as group:
        group.create_task(_run_thread(thread.run, thread.stop))
        engine = await _loaded(process, thread)
        group.create_task(_serve(process, thread, engine))


def build(process: Process) -> Engine:
    """The model and its links, in the engine thread."""
    config = process.config
    model = load(config.model.path, config.model.dtype)
    bind = f"tcp://{config.mesh.bind}:*"
    links = Links(ZmqLink(bind), ZmqLink(bind))
    bounds = Bounds(config.prefill.start_timeout, config.prefill.step_timeout)
    return Engine(model, config.prefill.kv_tokens, links, bounds)


async def _loaded(process: Process, thread: EngineThread) -> Engine:
    started = process.clock.now()
    while not thread.loaded.done():
        process.log.info("loading", seconds=round(process.clock.now() - started, 1))
        with suppress(TimeoutError):
            async with asyncio.timeout(PROGRESS):
                await asyncio.shield(thread.loaded)
    process.log.info("loaded", seconds=round(process.clock.now() - started, 1))
    return thread.loaded.result()


async def _serve(process: Process, thread: EngineThread, engine: Engine) -> None:
    loop, stop = asyncio.get_running_loop(), threading.Event()
    sender = KvSender(engine.cache, f"tcp://{process.config.mesh.bind}:*")
    reply = reachable(sender.endpoint, process.peer.inbox)
    sends = SendManager(reply, engine.model.layout, process.config)
    instance = Instance(process, sends, Threads(thread, engine, sender))
    inbox, links = process.peer.inbox, engine.links
    ring = reachable(links.ring.endpoint, inbox)
    balance = reachable(links.balance.endpoint, inbox)

    def on_ack(ack: KvAck) -> None:
        loop.call_soon_threadsafe(instance.on_ack, ack)

    async with asyncio.TaskGroup() as group:
        group.create_task(_run_thread(partial(sender.run, stop, on_ack), stop.set))
        layout, device = engine.model.layout, processor()
        group.create_task(control(process, instance, layout, ring, balance, device))


async def _run_thread(run: Callable[[], None], stop: Callable[[], None]) -> None:
    """Run a thread to its end; cancelled, it is told to stop and the loop's end waits for it."""

    def body() -> None:
        torch.set_num_threads(1)
        run()

    try:
        await asyncio.to_thread(body)
    finally:
        stop()
