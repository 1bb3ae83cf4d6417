"""A prefill worker without model and threads: chunks take as long as the latency model says.

Control and books are the real ones. A chunk starts when all members of its group have come to it:
they tell each other with `RingReady`, as real ones do. Its layers finish evenly spread over its
seconds. What the latency model leaves out costs nothing here: balancing history, and waiting
inside the ring, since the members of a group finish together. Emulated workers reach each other
only inside one process, where their links are. Whoever waits or computes leaves at once when its
attempt ends here or is left by another member.
"""

import asyncio
from collections.abc import Iterable
from contextlib import suppress

from common.emulated_links import EmulatedLinks
from common.emulated_model import EmulatedModel
from common.errors import Aborted, LinkTimeout, OutOfPages, RequestFailed
from common.generation import finish, forbidden
from common.messages import (
    KvAck,
    KvLayer,
    LinkMessage,
    Member,
    RingAbort,
    RingReady,
    RunChunk,
    Token,
)
from common.pages import PAGE, Owner, PagePool
from common.recent import Recent
from common.scores import Scores
from common.service import Process
from common.sharding import num_tokens, owner_of_last
from services.prefill_worker.aborts import Aborts
from services.prefill_worker.control import control
from services.prefill_worker.hands import ChunkResult, Listener, Moments, Slots, Work
from services.prefill_worker.holdings import Holdings
from services.prefill_worker.instance import Instance
from services.prefill_worker.plan import abort_of, me, others, scored
from services.prefill_worker.send_manager import SendManager
from services.prefill_worker.transfer import Parcel

MAX_ARRIVED = 4096
"""Members that have come to a chunk and are remembered, until newer ones push them out."""


class EmulatedHands:
    """The hands of an instance on the event loop: `run` computes, links carry the KV."""

    def __init__(self, process: Process, model: EmulatedModel, links: EmulatedLinks) -> None:
        peer = process.peer
        place = f"emulated://{peer.name}/{peer.incarnation}"
        self.ring, self.balance, self.kv = f"{place}/ring", f"{place}/balance", f"{place}/kv"
        self._process = process
        self._model = model
        self._links = links
        num_pages = -(-process.config.prefill.kv_tokens // PAGE)
        self._holdings = Holdings(PagePool(num_pages))
        self._work: asyncio.Queue[tuple[Work, Listener]] = asyncio.Queue(1)
        self._arrived: Recent[RingReady] = Recent(MAX_ARRIVED)
        self._aborts = Aborts()
        self._news = asyncio.Event()

    def start(self, work: Work, listener: Listener) -> None:
        """Compute a chunk and tell `listener` what becomes of it."""
        self._work.put_nowait((work, listener))

    def submit(self, parcel: Parcel) -> None:
        """Send KV: the time of it."""
        message = parcel.message
        tokens = num_tokens(message.intervals) if isinstance(message, KvLayer) else 0
        num_bytes = self._model.layer_bytes(tokens)
        self._links.send(self.kv, parcel.link, message, num_bytes)

    def abort(self, owner: Owner) -> None:
        """End the computation of an attempt."""
        self._aborts.end(owner)
        self._news.set()

    def release(self, owner: Owner) -> None:
        """Free the slots of an attempt."""
        self._holdings.release(*owner)

    def slots(self) -> Slots:
        """Who holds what."""
        books = self._holdings
        return Slots(books.total_slots, books.free_slots, books.held())

    def receive(self, message: LinkMessage) -> None:
        """Another member has come to a chunk, or left it."""
        if isinstance(message, RingReady):
            self._arrived.add(message)
        elif isinstance(message, RingAbort):
            self._aborts.note(message)
        self._news.set()

    async def run(self) -> None:
        """Compute what is started, until cancelled."""
        while True:
            work, listener = await self._work.get()
            try:
                result = await self._compute(work, listener)
            except (Aborted, LinkTimeout, OutOfPages, RequestFailed) as error:
                self._leave(work.run)
                listener.on_failed(work.run, error)
            else:
                listener.on_done(work.run, result)

    async def _compute(self, work: Work, listener: Listener) -> ChunkResult:
        clock, run = self._process.clock, work.run
        self._aborts.begin(run)
        self._aborts.check()
        self._holdings.open(run)
        listener.on_ready(run)
        came = clock.now()
        await self._gather(run)
        started = clock.now()
        seconds, num_layers = self._model.chunk_seconds(run), self._model.layout.num_layers
        for layer in range(num_layers):
            await self._compute_until(started + seconds * (layer + 1) / num_layers)
            spans = self._holdings.spans(run.request, run.attempt, run.index)
            listener.on_layer(run, layer, spans)
        wait, ended = started - came, clock.now()
        first, scores = self._first(run), self._scores(work)
        moments = Moments(came, started, ended, ended)
        return ChunkResult(first, ended - started, wait, wait, 0.0, moments, scores=scores)

    async def _gather(self, run: RunChunk) -> None:
        """Wait until all members stand at the start of this chunk.

        Raises:
            LinkTimeout: one did not come in time.
            Aborted: the attempt is over.
        """
        for _, member in others(run):
            self._links.send(self.ring, member.ring, _ready(run, run.rank, me(run)))
        try:
            async with asyncio.timeout(self._process.config.prefill.start_timeout):
                await self._all(_ready(run, *other) for other in others(run))
        except TimeoutError:
            raise LinkTimeout(f"the group of {run.request} chunk {run.index} is late") from None

    async def _all(self, wanted: Iterable[RingReady]) -> None:
        for ready in wanted:
            while ready not in self._arrived:
                await self._hear()

    async def _compute_until(self, done: float) -> None:
        """Let time pass.

        Raises:
            Aborted: the attempt is over.
        """
        with suppress(TimeoutError):
            async with asyncio.timeout(max(0.0, done - self._process.clock.now())):
                while True:
                    await self._hear()

    async def _hear(self) -> None:
        """Wait for news, unless they have come that end the attempt."""
        self._aborts.check()
        self._news.clear()
        await self._news.wait()
        self._aborts.check()

    def _leave(self, run: RunChunk) -> None:
        """End an attempt here and tell all of its plan."""
        self._holdings.release(run.request, run.attempt)
        for rank, member in enumerate(run.members):
            if rank != run.rank:
                self._links.send(self.ring, member.ring, abort_of(run))

    def _scores(self, work: Work) -> tuple[Scores, ...]:
        """Of the prompt tokens that follow this member's own, where they are wanted."""
        run, history = work.run, work.run.chunks[work.run.index].history
        if run.prompt_logprobs < 0:
            return ()
        return tuple(
            self._model.scores(
                start, work.ids[start - history : stop - history], run.prompt_logprobs
            )
            for start, stop in scored(run, len(work.ids))
        )

    def _first(self, run: RunChunk) -> Token | None:
        """Token 0, where this member holds the last prompt token."""
        last = run.chunks[-1]
        if run.index < len(run.chunks) - 1 or owner_of_last(last) != run.rank:
            return None
        barred = forbidden(run.ending, (), 0)
        drawn = self._model.sample(run.sampling, last.history + last.length, barred)
        return Token(
            request=run.request,
            attempt=run.attempt,
            index=run.num_emitted,
            id=drawn.id,
            logprob=drawn.logprob,
            top=drawn.top,
            finish=finish(run.ending, (), drawn.id, 1),
        )


async def serve(process: Process, model: EmulatedModel, links: EmulatedLinks) -> None:
    """Join the mesh and pretend to compute chunks until cancelled."""
    hands = EmulatedHands(process, model, links)
    sends = SendManager(hands.kv, model.layout, process.config)
    instance = Instance(process, sends, hands)

    def on_ack(message: LinkMessage) -> None:
        if isinstance(message, KvAck):
            instance.on_ack(message)

    with links.bound(hands.ring, hands.receive), links.bound(hands.kv, on_ack):
        async with asyncio.TaskGroup() as group:
            group.create_task(hands.run())
            group.create_task(control(process, instance, model.layout, hands.ring, hands.balance))


def _ready(run: RunChunk, rank: int, member: Member) -> RingReady:
    return RingReady(run.request, run.attempt, run.index, rank, member.incarnation)
