"""The control side of a decode worker: batches, tokens to the gateways, the books of requests.

On the event loop alone. It shares `Slots`, and nothing else, with whoever receives KV, which may
be another thread.
"""

import asyncio
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Protocol

from common.errors import OutOfPages
from common.generation import Sampled
from common.messages import (
    PROTOCOL,
    Admitted,
    Cancel,
    ControlMessage,
    DecodeFacts,
    DecodeStats,
    EndOfRequest,
    Endpoint,
    Failed,
    Hello,
    KvCommit,
    KvLayer,
    KvLayout,
    Peer,
    Release,
    Token,
    TokenBatch,
)
from common.model_card import read_card
from common.pages import Owner, Span
from common.service import Membership, Process
from services.decode_worker.scheduler import Entry, Failure, Request, Scheduler
from services.decode_worker.slots import Slots

MAX_BATCH = 512
"""Requests of a step, at most: first and second tokens of all, with logprobs, are one message."""

STEP_SECONDS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0)
"""Buckets of the histogram."""


class Engine(Protocol):
    """What a worker drives, real or emulated."""

    async def step(self, batch: Sequence[Entry]) -> list[Sampled | None]:
        """One token for each entry, in order; None where there is none to draw."""


class Intake:
    """What a receiver of KV calls: slots where it stands, all else through `post`.

    Args:
        post: has the loop call a function; a thread must not call the worker itself.
    """

    def __init__(self, worker: "Worker", slots: Slots, post: Callable[..., object]) -> None:
        self._worker = worker
        self._slots = slots
        self._post = post

    def open(self, message: KvLayer) -> Sequence[Span] | None:
        """The slots of the layer's request; None when it has ended or finds no room."""
        try:
            return self._slots.open(message)
        except OutOfPages as error:
            failure = Failure(Owner(message.request, message.attempt), str(error))
            self._post(self._worker.fail, failure)
            return None

    def commit(self, message: KvCommit) -> None:
        """Hand a transfer whose layers are in their slots to the loop."""
        self._post(self._worker.commit, message)


class Worker:
    """The control side of a decode worker, on the event loop."""

    def __init__(self, process: Process, slots: Slots, eos_ids: Collection[int]) -> None:
        config = process.config.decode
        max_batch = min(config.max_batch, MAX_BATCH)
        self._process = process
        self._mesh = process.mesh
        self._router = process.config.mesh.router
        self._scheduler = Scheduler(slots, eos_ids, max_batch, config.grow_tokens)
        self._slots = slots
        self._work = asyncio.Event()
        self._has_left = False
        self._tokens = process.metrics.counter("tetris_decode_tokens", "Tokens decoded.")
        self._seconds = process.metrics.histogram(
            "tetris_decode_step_seconds", "Seconds of one decode step.", STEP_SECONDS
        )

    async def run(self, engine: Engine, layout: KvLayout, link: Endpoint) -> None:
        """Join the mesh, take KV at `link` and decode until cancelled.

        Raises:
            ConfigError: the router refuses this worker.
        """
        membership = Membership(self._process, self._hello(layout, link), self.facts, self.fence)
        async with asyncio.TaskGroup() as group:
            group.create_task(membership.run())
            group.create_task(self.listen(membership))
            group.create_task(self.decode(engine))

    async def listen(self, membership: Membership) -> None:
        """Take control messages, for ever."""
        while True:
            message, _ = await self._mesh.receive()
            if not membership.receive(message):
                self.receive(message)

    async def decode(self, engine: Engine) -> None:
        """Step as long as there is work, for ever."""
        while True:
            await self._work.wait()
            self._work.clear()
            self._report_stats()
            while self._scheduler.has_work:
                await self._step(engine)
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

    def fence(self) -> None:
        """Let go of everything: the router has given it to others."""
        for held in self._slots.held():
            self._scheduler.end(Owner(held.request, held.attempt))

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

    async def _step(self, engine: Engine) -> None:
        boundary = self._scheduler.start()
        for request in boundary.admitted:
            self._admit(request)
        for failure in boundary.failed:
            self.fail(failure)
        if not boundary.batch:
            return
        started = self._process.clock.now()
        drawn = await engine.step(self._scheduler.entries())
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
            batch = TokenBatch(decode=self._process.peer, tokens=tuple(tokens))
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

    def _hello(self, layout: KvLayout, link: Endpoint) -> Hello:
        return Hello(
            role="decode-worker",
            peer=self._process.peer,
            node=self._process.node,
            protocol=PROTOCOL,
            model=read_card(self._process.config.model),
            layout=layout,
            link=link,
            total_slots=self._slots.totals()[0],
            num_backends=self._process.config.decode.backends,
        )
