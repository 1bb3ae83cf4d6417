"""What a prefill instance does with every message and every event of its threads.

Used by the event loop alone and never waits. An attempt lives here from its first chunk's arrival
until its KV is released; what is over is remembered for a while, so that nothing late revives it.
Its KV is released once, as soon as it is over and no chunk of it runs.
"""

import numpy as np

from common.errors import Aborted, LinkTimeout, TetrisError
from common.failpoints import hit
from common.messages import (
    Cancel,
    ControlMessage,
    EndOfRequest,
    Grant,
    Held,
    KvAck,
    PrefillFacts,
    RunChunk,
    Running,
    Scored,
    Skip,
    Times,
    Token,
    Welcome,
)
from common.pages import Owner, Span
from common.recent import Recent
from common.service import Process
from common.wire import Frames
from services.prefill_worker.hands import ChunkResult, Hands, Work
from services.prefill_worker.live import Live
from services.prefill_worker.plan import is_given_up, is_sound, me, owner_of
from services.prefill_worker.send_manager import Key, SendManager
from services.prefill_worker.stamps import Stamps
from services.prefill_worker.turns import Turns
from services.prefill_worker.voice import Voice

MAX_ENDED = 4096
"""Ended attempts that are remembered."""
MAX_HELD = 4096
"""Entries of a heartbeat."""


class Instance:
    """The control side of one prefill instance."""

    def __init__(self, process: Process, sends: SendManager, hands: Hands) -> None:
        self._process = process
        self._sends = sends
        self._hands = hands
        self._voice = Voice(process)
        self._turns: Turns[Work] = Turns()
        self._live: dict[Owner, Live] = {}
        self._ended: Recent[Owner] = Recent(MAX_ENDED)
        self._running: RunChunk | None = None
        self._layer: int | None = None

    def facts(self) -> PrefillFacts:
        """What the heartbeat tells."""
        slots = self._hands.slots()
        return PrefillFacts(
            epoch=self._turns.epoch,
            received_through=self._turns.received_through,
            finished_through=self._turns.finished_through,
            total_slots=slots.total,
            free_slots=slots.free,
            running=self._computing(),
            held=tuple(self._aged(held) for held in slots.held[:MAX_HELD]),
        )

    def welcome(self, welcome: Welcome) -> None:
        """Follow the router that has taken this instance in, and the brokers that it names."""
        self.enter(welcome.epoch)
        self._sends.follow(welcome.brokers)
        self.advance()

    def enter(self, epoch: int) -> bool:
        """Follow a life of the router, also when it welcomes; False for an older one.

        A new life knows nothing of attempts that are not computed completely: they end.
        """
        is_new = epoch > self._turns.epoch
        is_current = self._turns.enter(epoch)
        if is_new:
            for owner in [owner for owner, live in self._live.items() if not live.is_computed]:
                self._end(owner)
        return is_current

    def fence(self) -> None:
        """Let go of everything in silence: the router has given it to others."""
        self._voice.fence()
        self._turns = Turns()
        for owner in tuple(self._live):
            self._end(owner)

    def expire(self, silence: float) -> None:
        """Let go of everything, no router having been heard for `silence` seconds."""
        if all(live.is_over for live in self._live.values()):
            return
        self._process.log.warning("leases are over", silence=silence, attempts=len(self._live))
        for owner, live in tuple(self._live.items()):
            if not live.is_over:
                self._voice.lost(live.run, LinkTimeout("no router was heard for too long"))
                self._end(owner)
        self.advance()

    def receive(self, message: ControlMessage, frames: Frames = ()) -> None:
        """Act on one message; whatever is not for a prefill instance is ignored."""
        match message:
            case RunChunk():
                self._plan(message, memoryview(frames[0]))
            case Skip():
                self._skip(message)
            case Grant():
                self._sends.receive(message, self._now())
            case Scored():
                self._voice.scored(message)
            case EndOfRequest() | Cancel():
                self._voice.settle(message)
                owner = Owner(message.request, message.attempt)
                self._end(owner, given_up=is_given_up(message))
            case _:
                return
        self.advance()

    def advance(self) -> None:
        """Start the next chunk if none runs, and send what is due; also once in a while."""
        if self._running is None and (work := self._turns.next()) is not None:
            self._start(work)
        due = self._sends.due(self._now())
        for handshake in due.handshakes:
            self._process.mesh.send(handshake.target.broker, handshake)
        for broker, release in due.releases:
            self._process.mesh.send(broker, release)
        for parcel in due.parcels:
            self._hands.submit(parcel)
        for owner in due.through:
            self._end(owner)
        for owner in due.stalled:
            self._fail(self._live[owner].run, LinkTimeout("decode stopped to take KV"))
        self._voice.repeat()

    def on_ack(self, ack: KvAck) -> None:
        """Decode has a frame of ours."""
        self._sends.receive(ack, self._now())
        self.advance()

    def on_ready(self, run: RunChunk) -> None:
        """The engine has slots for the chunk and waits for its group."""
        live = self._live.get(owner_of(run))
        if live is not None and live.born is None:
            live.born = self._now()
        if self._is_current(run):
            self._voice.ready(run)

    def on_layer(self, run: RunChunk, layer: int, spans: list[Span]) -> None:
        """The engine has this layer's KV in its slots."""
        self._layer = layer
        self._sends.on_layer(Key(run.request, run.attempt, run.index), layer, spans, self._now())
        self.advance()

    def on_done(self, run: RunChunk, result: ChunkResult) -> None:
        """The engine has computed a chunk."""
        owner = owner_of(run)
        sent = self._sends.on_computed(Key(*owner, run.index), result.first, self._now())
        if self._is_current(run):
            self._voice.done(run, result, sent)
        self._voice.log(run, result, sent)
        self._voice.scores(run, result)
        live = self._finish(run)
        if live is not None:
            live.is_computed = run.index == len(run.chunks) - 1
            live.stamps.done(run.index, result)
            if result.first is not None:
                self._deliver(run, result.first, live.stamps.times(run))
        self.advance()

    def on_failed(self, run: RunChunk, error: TetrisError) -> None:
        """The engine could not compute a chunk, and has freed the attempt's slots."""
        if self._finish(run) is not None:
            self._fail(run, error)
        self.advance()

    def _plan(self, run: RunChunk, ids: memoryview) -> None:
        if not is_sound(run) or ids.nbytes % 4:
            self._drop("field")
            return
        peer, owner = self._process.peer, owner_of(run)
        if (me(run).name, me(run).incarnation) != (peer.name, peer.incarnation):
            self._drop("incarnation")
            return
        if not self.enter(run.epoch):
            return
        self._part_from_older_plan(run)
        is_void = owner in self._ended
        work = None if is_void else Work(run, np.frombuffer(ids, dtype="<i4"))
        if not self._turns.add(run.turn, work):
            return
        hit("chunk.received")
        if not is_void:
            live = self._live.setdefault(owner, Live(run, Stamps(self._process.clock)))
            live.stamps.arrive(run.index, self._now())
            return
        # Were it silent, the rest of the group would wait in the ring for it.
        self._voice.lost(run, Aborted("the attempt has ended here already"))
        if owner not in self._live:
            self._voice.released(run)

    def _part_from_older_plan(self, run: RunChunk) -> None:
        """End what an older router has planned and a new one plans again, knowing nothing of it.

        Its KV has other places, so the two plans cannot share anything.
        """
        live = self._live.get(owner_of(run))
        if live is not None and live.run.epoch != run.epoch:
            self._end(owner_of(run))

    def _skip(self, skip: Skip) -> None:
        if skip.incarnation != self._process.peer.incarnation:
            self._drop("incarnation")
        elif self.enter(skip.epoch):
            self._turns.add(skip.turn, None)

    def _drop(self, reason: str) -> None:
        self._process.metrics.dropped.labels(reason).inc()

    def _start(self, work: Work) -> None:
        self._sends.begin(work.run)
        self._running, self._layer = work.run, None
        self._hands.start(work, self)

    def _computing(self) -> Running | None:
        """The chunk of which a layer is there, not one that still waits for its group."""
        run = self._running
        if run is None or self._layer is None or not self._is_current(run):
            return None
        return Running(run.seq, self._layer)

    def _aged(self, held: Held) -> Held:
        live = self._live.get(Owner(held.request, held.attempt))
        return held if live is None else live.aged(held, self._now())

    def _is_current(self, run: RunChunk) -> bool:
        """Whether the router of today has issued this chunk to this life, and knows its numbers."""
        is_mine = me(run).incarnation == self._process.peer.incarnation
        return is_mine and run.epoch == self._turns.epoch

    def _finish(self, run: RunChunk) -> Live | None:
        """The hands are free again; the chunk's attempt, unless that is over."""
        if self._is_current(run):
            self._turns.finish(run.epoch, run.turn)
        self._running = None
        live = self._live[owner_of(run)]
        if not live.is_over:
            return live
        self._release(owner_of(run))
        return None

    def _deliver(self, run: RunChunk, token: Token, times: Times) -> None:
        """Token 0 to the gateway; when it ends the request, everybody else lets go of it."""
        self._voice.first(run, token, times)
        if token.finish is not None:
            self._voice.finished(run, token, self._sends.broker(run.target))
            self._end(owner_of(run))

    def _fail(self, run: RunChunk, error: TetrisError) -> None:
        """Give a request up at this member, whatever others do."""
        self._voice.failed(run, error, self._sends.broker(run.target))
        self._end(owner_of(run))

    def _end(self, owner: Owner, *, given_up: bool = True) -> None:
        """The attempt is over: no more KV of it is sent, and nothing computed. Idempotent.

        Only scores of its prompt, which may end after its token 0, are wanted until it is given up.
        """
        self._ended.add(owner)
        live = self._live.get(owner)
        if live is None or live.is_over:
            return
        live.is_over = True
        self._sends.end(owner)
        self._turns.void(lambda work: owner_of(work.run) == owner)
        run = self._running
        if run is not None and owner_of(run) == owner:
            if given_up or run.prompt_logprobs < 0:
                self._hands.abort(owner)
        else:
            self._release(owner)

    def _release(self, owner: Owner) -> None:
        """Free the slots. The copy thread may still read them: for frames nobody wants."""
        live = self._live.pop(owner)
        self._hands.release(owner)
        self._voice.released(live.run)

    def _now(self) -> float:
        return self._process.clock.now()
