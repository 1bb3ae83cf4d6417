"""A decode worker: takes KV in, decodes in batches, sends tokens to the gateways.

Three threads. The event loop owns the scheduler; the engine thread runs one step at a time; the
copy thread writes arriving KV into the cache. Loop and copy thread share `Slots`, nothing else;
the copy thread's commits reach the loop through `call_soon_threadsafe`.
"""

import asyncio
import threading
from collections import defaultdict
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor

import torch

from common.errors import OutOfPages
from common.links.address import reachable
from common.messages import (
    PROTOCOL,
    Admitted,
    Cancel,
    ControlMessage,
    DecodeFacts,
    DecodeStats,
    EndOfRequest,
    Failed,
    Hello,
    KvCommit,
    KvLayer,
    Peer,
    Release,
    Token,
    TokenBatch,
)
from common.model_card import read_card
from common.pages import PAGE, Owner, Span
from common.service import Membership, Process
from common.tensor.kv_cache import KvCache
from common.tensor.models import Model, load
from services.decode_worker.engine import Engine, ModelEngine
from services.decode_worker.kv_receiver import KvReceiver
from services.decode_worker.scheduler import Failure, Request, Scheduler
from services.decode_worker.slots import Slots

MAX_BATCH = 512
"""Requests of a step, at most: first and second tokens of all, with logprobs, are one message."""

STEP_SECONDS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0)
"""Buckets of the histogram."""


async def serve(process: Process) -> None:
    """Run a decode worker until cancelled.

    Raises:
        ConfigError: the model cannot be served, or the router refuses this worker.
    """
    with ThreadPoolExecutor(1, "engine", torch.set_num_threads, (1,)) as thread:
        model = await asyncio.get_running_loop().run_in_executor(thread, _load, process)
        num_pages = -(-process.config.decode.kv_tokens // PAGE)
        cache, slots = KvCache(model.layout, num_pages), Slots(num_pages)
        engine = ModelEngine(model, cache)
        worker = Worker(process, _scheduler(process, slots, model), slots)
        intake = Intake(worker, slots, asyncio.get_running_loop())
        bind = f"tcp://{process.config.mesh.bind}:*"
        receiver = KvReceiver(cache, bind, intake.open, slots.copied, intake.commit)
        hello = _hello(process, model, slots, receiver.endpoint)
        await worker.run(Membership(process, hello, worker.facts), engine, thread, receiver)


class Intake:
    """What the copy thread calls: slots on its own thread, all else on the loop."""

    def __init__(self, worker: "Worker", slots: Slots, loop: asyncio.AbstractEventLoop) -> None:
        self._worker = worker
        self._slots = slots
        self._loop = loop

    def open(self, message: KvLayer) -> Sequence[Span] | None:
        """The slots of the layer's request; None when it has ended or finds no room."""
        try:
            return self._slots.open(message)
        except OutOfPages as error:
            failure = Failure(Owner(message.request, message.attempt), str(error))
            self._loop.call_soon_threadsafe(self._worker.fail, failure)
            return None

    def commit(self, message: KvCommit) -> None:
        """Hand a transfer whose layers are in their slots to the loop."""
        self._loop.call_soon_threadsafe(self._worker.commit, message)


class Worker:
    """The control side of a decode worker, on the event loop."""

    def __init__(self, process: Process, scheduler: Scheduler, slots: Slots) -> None:
        self._process = process
        self._mesh = process.mesh
        self._router = process.config.mesh.router
        self._scheduler = scheduler
        self._slots = slots
        self._work = asyncio.Event()
        self._has_left = False
        self._tokens = process.metrics.counter("tetris_decode_tokens", "Tokens decoded.")
        self._seconds = process.metrics.histogram(
            "tetris_decode_step_seconds", "Seconds of one decode step.", STEP_SECONDS
        )

    async def run(
        self,
        membership: Membership,
        engine: Engine,
        thread: ThreadPoolExecutor,
        receiver: KvReceiver,
    ) -> None:
        """Serve until cancelled; a failing loop or thread ends all of them."""
        stop = threading.Event()
        loop = asyncio.get_running_loop()
        with ThreadPoolExecutor(1, "copy", torch.set_num_threads, (1,)) as copy:
            copying = loop.run_in_executor(copy, receiver.run, stop)
            try:
                async with asyncio.TaskGroup() as group:
                    group.create_task(membership.run())
                    group.create_task(self.listen(membership))
                    group.create_task(self.decode(engine, thread))
                    await copying
            finally:
                stop.set()

    async def listen(self, membership: Membership) -> None:
        """Take control messages, for ever."""
        while True:
            message, _ = await self._mesh.receive()
            if not membership.receive(message):
                self.receive(message)

    async def decode(self, engine: Engine, thread: ThreadPoolExecutor) -> None:
        """Step as long as there is work, for ever."""
        while True:
            await self._work.wait()
            self._work.clear()
            self._report_stats()
            while self._scheduler.has_work:
                await self._step(engine, thread)
                self._report_stats()

    def receive(self, message: ControlMessage) -> None:
        """Let go of a request that is over elsewhere; all other messages are not for decode."""
        match message:
            case (
                Cancel(request=request, attempt=attempt)
                | EndOfRequest(request=request, attempt=attempt)
            ):
                if self._scheduler.end(Owner(request, attempt)):
                    self._leave()
            case _:
                self._process.metrics.dropped.labels(reason="unexpected").inc()

    def commit(self, message: KvCommit) -> None:
        """Book a transfer that is in its slots, and free its backend."""
        name, incarnation = self._process.peer.name, self._process.peer.incarnation
        release = Release(
            request=message.request,
            attempt=message.attempt,
            chunk=message.chunk,
            rank=message.rank,
            target=name,
            incarnation=incarnation,
        )
        self._mesh.send(message.broker, release)
        failure = self._scheduler.commit(message)
        if failure is not None:
            self.fail(failure)
        self._work.set()

    def fail(self, failure: Failure) -> None:
        """Give a request back to the router, which may try again."""
        self._scheduler.end(failure.owner)
        self._process.log.warning("request failed", request=failure.owner.request, why=failure.why)
        failed = Failed(
            request=failure.owner.request,
            attempt=failure.owner.attempt,
            what="decode",
            why=failure.why,
            retryable=failure.retryable,
        )
        self._mesh.send(self._router, failed)
        self._leave()

    def facts(self) -> DecodeFacts:
        """What this instance knows of itself."""
        total, free = self._slots.totals()
        return DecodeFacts(
            total_slots=total,
            free_slots=free,
            active=self._scheduler.num_active,
            steps=self._scheduler.steps,
            held=self._slots.held(),
        )

    async def _step(self, engine: Engine, thread: ThreadPoolExecutor) -> None:
        boundary = self._scheduler.start()
        for request in boundary.admitted:
            self._admit(request)
        for failure in boundary.failed:
            self.fail(failure)
        if not boundary.batch:
            return
        loop = asyncio.get_running_loop()
        started = self._process.clock.now()
        drawn = await loop.run_in_executor(thread, engine.step, self._scheduler.entries())
        self._seconds.observe(self._process.clock.now() - started)
        outcome = self._scheduler.finish(drawn)
        self._tokens.inc(len(outcome.reported))
        self._send_tokens(outcome.reported)
        for failure in outcome.failed:
            self.fail(failure)
        for request in outcome.reported:
            if request.reason is not None:
                self._end(request)

    def _admit(self, request: Request) -> None:
        name, incarnation = self._process.peer.name, self._process.peer.incarnation
        slots = sum(stop - start for start, stop in request.spans)
        self._mesh.send(request.job.router, Admitted(name, incarnation, *request.owner, slots))

    def _send_tokens(self, requests: Iterable[Request]) -> None:
        by_gateway: defaultdict[Peer, list[Token]] = defaultdict(list)
        for request in requests:
            by_gateway[request.job.gateway].extend(request.take_tokens())
        for gateway, tokens in by_gateway.items():
            batch = TokenBatch(name=self._process.peer.name, tokens=tuple(tokens))
            self._mesh.send(gateway.inbox, batch)

    def _end(self, request: Request) -> None:
        assert request.reason is not None
        num_tokens = request.job.first.index + request.num_emitted
        end = EndOfRequest(*request.owner, num_tokens=num_tokens, reason=request.reason)
        self._mesh.send(request.job.router, end)
        self._process.log.info(
            "decoded",
            request=request.owner.request,
            emitted=request.num_emitted,
            shared_steps=request.num_shared,
        )
        self._leave()

    def _leave(self) -> None:
        """Have the slots reported; between steps, when those of the one that left are free."""
        self._has_left = True
        self._work.set()

    def _report_stats(self) -> None:
        if self._has_left:
            self._has_left = False
            name, incarnation = self._process.peer.name, self._process.peer.incarnation
            self._mesh.send(self._router, DecodeStats(name, incarnation, self.facts()))


def _load(process: Process) -> Model:
    return load(process.config.model.path, process.config.model.dtype)


def _scheduler(process: Process, slots: Slots, model: Model) -> Scheduler:
    config = process.config.decode
    return Scheduler(slots, model.eos_ids, min(config.max_batch, MAX_BATCH), config.grow_tokens)


def _hello(process: Process, model: Model, slots: Slots, link: str) -> Hello:
    return Hello(
        role="decode-worker",
        peer=process.peer,
        node=process.node,
        protocol=PROTOCOL,
        model=read_card(process.config.model),
        layout=model.layout,
        link=reachable(link, process.peer.inbox),
        total_slots=slots.totals()[0],
        num_backends=process.config.decode.backends,
    )
