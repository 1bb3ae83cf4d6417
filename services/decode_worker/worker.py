"""The control side of a decode worker: batches, tokens to the gateways, the books of requests.

On the event loop alone. It shares `Slots`, and nothing else, with whoever receives KV, which may
be another thread.
"""

import asyncio
from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from typing import Protocol

from common import failpoints
from common.generation import Sampled
from common.messages import (
    Admitted,
    Cancel,
    ControlMessage,
    DecodeFacts,
    DecodeStats,
    EndOfRequest,
    Endpoint,
    Failed,
    Joining,
    KvCommit,
    KvLayer,
    Peer,
    Release,
    Resend,
    Token,
    TokenBatch,
)
from common.pages import Owner, num_slots
from common.reports import Reports
from common.service import Process
from services.decode_worker.request import Entry, Failure, Request
from services.decode_worker.scheduler import Scheduler
from services.decode_worker.slots import Slots

MAX_BATCH = 512
"""Requests of a step, at most: first and second tokens of all, with logprobs, are one message."""

STEP_SECONDS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0)
"""Buckets of the histogram."""


class Engine(Protocol):
    """What a worker drives, real or emulated."""

    async def step(self, batch: Sequence[Entry]) -> list[Sampled | None]:
        """One token for each entry, in order; None where there is none to draw."""


class Worker:
    """The control side of a decode worker, on the event loop."""

    def __init__(self, process: Process, slots: Slots, eos_ids: Collection[int]) -> None:
        config = process.config.decode
        max_batch = min(config.max_batch, MAX_BATCH)
        self.broker: Endpoint | None = None
        """Who lends this instance's backends, as far as the router has said."""
        self._process = process
        self._mesh = process.mesh
        self._router = process.config.mesh.router
        self._scheduler = Scheduler(slots, eos_ids, max_batch, config.grow_tokens)
        self._reports: Reports[EndOfRequest | Failed] = Reports(process.config.mesh.resend)
        self._slots = slots
        self._work = asyncio.Event()
        self._has_left = False
        self._released_at = float("-inf")
        self._tokens = process.metrics.counter("tetris_decode_tokens", "Tokens decoded.")
        self._evictions = process.metrics.counter(
            "tetris_decode_evictions", "Attempts that had to make room for others, or found none."
        )
        self._seconds = process.metrics.histogram(
            "tetris_decode_step_seconds", "Seconds of one decode step.", STEP_SECONDS
        )

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
        """Let go of what is over elsewhere, repeat tokens; all else is not for decode."""
        match message:
            case (
                Cancel(request=request, attempt=attempt)
                | EndOfRequest(request=request, attempt=attempt)
            ):
                self._reports.settle(Owner(request, attempt))
                if self._scheduler.end(Owner(request, attempt)):
                    self._leave()
            case Resend():
                self._resend(message)
            case _:
                self._process.metrics.dropped.labels(reason="unexpected").inc()

    def tick(self, silence: float) -> None:
        """Repeat what the router has not answered; let go of leases that it no longer renews.

        Args:
            silence: seconds since the router was heard.
        """
        self._send_reports()
        self._repeat_releases()
        if silence > self._process.config.mesh.lease:
            for owner in self._scheduler.waiting():
                self._scheduler.end(owner)

    def want(self, message: KvLayer) -> None:
        """A first layer found no room: make some between two steps."""
        self._scheduler.want(message, self._process.clock.now())
        self._work.set()

    def commit(self, message: KvCommit) -> None:
        """Book a transfer that is in its slots, and free its backend; also a repeated one."""
        failure = self._scheduler.commit(message, self._process.clock.wall())
        self._release(message)
        if failure is not None:
            self._fail(failure)
        self._work.set()

    def _release(self, message: KvCommit) -> None:
        owner = Owner(message.request, message.attempt)
        release = Release(
            *owner,
            chunk=message.chunk,
            rank=message.rank,
            target=self._process.peer.name,
            incarnation=self._process.peer.incarnation,
            is_last=not self._scheduler.is_arriving(owner),
        )
        self._mesh.send(self.broker or message.broker, release)

    def _repeat_releases(self) -> None:
        """Once per heartbeat: a backend whose release was lost may be the next sender's."""
        now = self._process.clock.now()
        if now - self._released_at < self._process.config.mesh.heartbeat:
            return
        self._released_at = now
        for message in self._scheduler.arrived():
            self._release(message)

    def fence(self) -> None:
        """Let go of everything and say no more of it: the router has given it to others."""
        self._scheduler.fence()
        self._reports.clear()
        self._has_left = False

    def facts(self) -> DecodeFacts:
        """What this instance knows of itself."""
        total, free = self._slots.totals()
        return DecodeFacts(
            total_slots=total,
            free_slots=free,
            active=self._scheduler.num_active,
            steps=self._scheduler.steps,
            held=self._scheduler.held(self._process.clock.now()),
        )

    async def _step(self, engine: Engine) -> None:
        boundary = self._scheduler.start()
        for request in boundary.admitted:
            self._admit(request)
        for failure in boundary.failed:
            self._fail(failure)
        if not boundary.batch:
            return
        started, wall = self._process.clock.now(), self._process.clock.wall()
        drawn = await engine.step(self._scheduler.entries())
        self._seconds.observe(self._process.clock.now() - started)
        outcome = self._scheduler.finish(drawn)
        failpoints.hit("decode.step")
        self._tokens.inc(len(outcome.reported))
        self._send_tokens(outcome.reported, boundary.admitted, wall)
        for failure in outcome.failed:
            self._fail(failure)
        for request in outcome.reported:
            if request.reason is not None:
                self._end(request)

    def _admit(self, request: Request) -> None:
        failpoints.hit("decode.admit")
        name, incarnation = self._process.peer.name, self._process.peer.incarnation
        slots = num_slots(request.spans)
        self._mesh.send(request.job.router, Admitted(name, incarnation, *request.owner, slots))

    def _send_tokens(
        self, requests: Iterable[Request], admitted: Iterable[Request], began: float
    ) -> None:
        """The tokens of a step, and how those came into it for which it was the first."""
        by_gateway: defaultdict[Peer, list[Token]] = defaultdict(list)
        joined: defaultdict[Peer, list[Joining]] = defaultdict(list)
        for request in requests:
            by_gateway[request.job.gateway].extend(request.take_tokens())
        for request in admitted:
            joining = Joining(*request.owner, committed=request.committed, begun=began)
            joined[request.job.gateway].append(joining)
        for gateway, tokens in by_gateway.items():
            batch = TokenBatch(self._process.peer, tuple(tokens), tuple(joined[gateway]))
            self._mesh.send(gateway.inbox, batch)

    def _resend(self, message: Resend) -> None:
        owner = Owner(message.request, message.attempt)
        tokens = self._scheduler.tokens(owner, message.index)
        if tokens is None:
            why = f"{self._process.peer.name} does not hold it"
            self._mesh.send(message.reply.inbox, Failed(*owner, "decode", why, retryable=True))
            return
        for start in range(0, len(tokens), 2 * MAX_BATCH):
            some = tuple(tokens[start : start + 2 * MAX_BATCH])
            self._mesh.send(message.reply.inbox, TokenBatch(self._process.peer, some))

    def _end(self, request: Request) -> None:
        assert request.reason is not None
        failpoints.hit("decode.end")
        num_tokens = request.job.first.index + request.num_emitted
        sender = self._process.peer.inbox
        end = EndOfRequest(*request.owner, num_tokens, request.reason, sender)
        self._reports.owe(request.owner, end)
        self._process.log.info(
            "decoded",
            request=request.owner.request,
            emitted=request.num_emitted,
            shared_steps=request.num_shared,
        )
        self._send_reports()
        self._leave()

    def _fail(self, failure: Failure) -> None:
        """Give a request back to the router, which may try again."""
        self._process.log.warning("request failed", request=failure.owner.request, why=failure.why)
        self._evictions.inc(failure.evicted)
        failed = Failed(
            *failure.owner,
            what="decode",
            why=failure.why,
            retryable=failure.retryable,
            evicted=failure.evicted,
            sender=self._process.peer.inbox,
        )
        self._reports.owe(failure.owner, failed)
        self._send_reports()
        self._leave()

    def _send_reports(self) -> None:
        for report in self._reports.due(self._process.clock.now()):
            self._mesh.send(self._router, report)

    def _leave(self) -> None:
        """Have the slots reported; between steps, when those of the one that left are free."""
        self._has_left = True
        self._work.set()

    def _report_stats(self) -> None:
        if self._has_left:
            self._has_left = False
            name, incarnation = self._process.peer.name, self._process.peer.incarnation
            self._mesh.send(self._router, DecodeStats(name, incarnation, self.facts()))
