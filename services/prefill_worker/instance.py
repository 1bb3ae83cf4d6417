"""What a prefill instance does with every message and every event of its threads.

Used by the event loop alone and never waits. A request lives here from its first chunk's arrival
until its KV is released; what is over is remembered for a while, so that nothing late revives it.
"""

from dataclasses import dataclass

import numpy as np

from common.errors import LinkTimeout, OutOfPages, TetrisError
from common.messages import (
    Cancel,
    ChunkDone,
    ControlMessage,
    EndOfRequest,
    Failed,
    FirstToken,
    Grant,
    KvAck,
    Peer,
    PrefillFacts,
    Ready,
    Released,
    RunChunk,
    Running,
    Skip,
    Token,
)
from common.pages import Owner, Span
from common.recent import Recent
from common.service import Process
from common.wire import Frames
from services.prefill_worker.hands import ChunkResult, Hands, Work
from services.prefill_worker.plan import is_sound, owner_of
from services.prefill_worker.send_manager import Key, SendManager
from services.prefill_worker.turns import Turns

MAX_ENDED = 4096
"""Ended attempts that are remembered."""
MAX_HELD = 4096
"""Entries of a heartbeat."""


@dataclass
class _Live:
    run: RunChunk
    is_computed: bool = False


class Instance:
    """The control side of one prefill instance."""

    def __init__(self, process: Process, sends: SendManager, hands: Hands) -> None:
        self._process = process
        self._sends = sends
        self._hands = hands
        self._turns: Turns[Work] = Turns()
        self._live: dict[Owner, _Live] = {}
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
            held=slots.held[:MAX_HELD],
        )

    def enter(self, epoch: int) -> bool:
        """Follow a life of the router, also when it welcomes; False for an older one.

        A new life knows nothing of chunks that have not run.
        """
        is_new = epoch > self._turns.epoch
        is_current = self._turns.enter(epoch)
        if is_new:
            for owner in [owner for owner, live in self._live.items() if not live.is_computed]:
                self._end(owner)
        return is_current

    def fence(self) -> None:
        """Let go of everything: the router has given it to others."""
        for owner in tuple(self._live):
            self._end(owner)
        self._turns = Turns()

    def receive(self, message: ControlMessage, frames: Frames = ()) -> None:
        """Act on one message; whatever is not for a prefill instance is ignored."""
        match message:
            case RunChunk():
                self._plan(message, memoryview(frames[0]))
            case Skip():
                if self.enter(message.epoch):
                    self._turns.add(message.turn, None)
            case Grant():
                self._sends.receive(message, self._now())
            case EndOfRequest() | Cancel():
                self._end(Owner(message.request, message.attempt))
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
        for parcel in due.parcels:
            self._hands.submit(parcel)
        for owner in due.through:
            self._ended.add(owner)
            self._release(owner)
        for owner in due.stalled:
            self._fail(self._live[owner].run, LinkTimeout("decode stopped to take KV"))

    def on_ack(self, ack: KvAck) -> None:
        """Decode has a frame of ours."""
        self._sends.receive(ack, self._now())
        self.advance()

    def on_ready(self, run: RunChunk) -> None:
        """The engine waits for the chunk's group."""
        peer = self._process.peer
        if self._is_current(run):
            self._send(run, Ready(peer.name, peer.incarnation, run.seq, run.turn))

    def on_layer(self, run: RunChunk, layer: int, spans: list[Span]) -> None:
        """The engine has this layer's KV in its slots."""
        self._layer = layer
        self._sends.on_layer(Key(run.request, run.attempt, run.index), layer, spans, self._now())
        self.advance()

    def on_done(self, run: RunChunk, result: ChunkResult) -> None:
        """The engine has computed a chunk."""
        owner = owner_of(run)
        sent = self._sends.on_computed(Key(*owner, run.index), result.first, self._now())
        peer = self._process.peer
        done = ChunkDone(
            *(peer.name, peer.incarnation, run.seq, run.turn, *owner, run.index),
            *(result.compute, result.wait, result.balance, 0.0),
            sent_bytes=sent.acknowledged,
            total_bytes=sent.total,
        )
        if self._is_current(run):
            self._send(run, done)
        self._log(run, result, done)
        if owner in self._live:
            self._live[owner].is_computed = run.index == len(run.chunks) - 1
        if result.first is not None and owner not in self._ended:
            self._deliver(run, result.first)
        self._finish(run)

    def _log(self, run: RunChunk, result: ChunkResult, done: ChunkDone) -> None:
        """One line for each chunk; times on this host's monotonic clock."""
        ended, chunk = self._now(), run.chunks[run.index]
        came = ended - result.compute - result.wait - result.balance
        self._process.log.info(
            "chunk_done",
            request=run.request,
            chunk=run.index,
            size=chunk.size,
            history=chunk.history,
            length=chunk.length,
            came=round(came, 6),
            started=round(came + result.gather, 6),
            ended=round(ended, 6),
            wait=round(result.wait - result.gather, 6),
            balance=round(result.balance, 6),
            sent_bytes=done.sent_bytes,
            total_bytes=done.total_bytes,
        )

    def on_failed(self, run: RunChunk, error: TetrisError) -> None:
        """The engine could not compute a chunk, and has freed the attempt's slots."""
        if owner_of(run) not in self._ended:
            self._fail(run, error)
        self._finish(run)

    def _plan(self, run: RunChunk, ids: memoryview) -> None:
        if not is_sound(run) or ids.nbytes % 4:
            self._process.metrics.dropped.labels("field").inc()
            return
        owner = owner_of(run)
        if not self.enter(run.epoch):
            return
        is_void = owner in self._ended and owner not in self._live
        work = None if is_void else Work(run, np.frombuffer(ids, dtype="<i4"))
        if not self._turns.add(run.turn, work):
            return
        if is_void:
            self._tell_released(run)
        else:
            self._live.setdefault(owner, _Live(run))

    def _start(self, work: Work) -> None:
        run = work.run
        if owner_of(run) not in self._ended:
            self._sends.begin(run)
        self._running, self._layer = run, None
        self._hands.start(work, self)

    def _computing(self) -> Running | None:
        """The chunk of which a layer is there, not one that still waits for its group."""
        run = self._running
        if run is None or self._layer is None or not self._is_current(run):
            return None
        return Running(run.seq, self._layer)

    def _is_current(self, run: RunChunk) -> bool:
        """Whether the router of today has issued this chunk, and knows its numbers."""
        return run.epoch == self._turns.epoch

    def _finish(self, run: RunChunk) -> None:
        self._turns.finish(run.epoch, run.turn)
        self._running = None
        self._let_go(owner_of(run))
        self.advance()

    def _deliver(self, run: RunChunk, token: Token) -> None:
        """Token 0 to the gateway; when it ends the request, everybody else lets go of it."""
        target = run.target
        decode = Peer(target.name, target.incarnation, target.inbox)
        self._process.mesh.send(run.gateway.inbox, FirstToken(token, decode))
        if token.finish is None:
            return
        end = EndOfRequest(run.request, run.attempt, token.index + 1, token.finish)
        self._send(run, end)
        self._tell_others(run, end)
        self._end(owner_of(run))

    def _end(self, owner: Owner) -> None:
        """The request is over: nothing more of it is sent, or computed for its own sake.

        Chunks that other members share and that have arrived are still run: a member that
        stayed away would leave the others waiting in the ring.
        """
        self._ended.add(owner)
        self._sends.end(owner)
        live = self._live.get(owner)
        if live is not None and live.run.chunks[-1].size == 1:
            self._turns.void(lambda work: owner_of(work.run) == owner)
        self._let_go(owner)

    def _fail(self, run: RunChunk, error: TetrisError) -> None:
        """Give a request up at this member, whatever others do."""
        owner = owner_of(run)
        self._ended.add(owner)
        self._sends.end(owner)
        self._turns.void(lambda work: owner_of(work.run) == owner)
        retryable = isinstance(error, LinkTimeout | OutOfPages)
        what = f"prefill of chunk {run.index} at {self._process.peer.name}"
        self._send(run, Failed(*owner, what, str(error)[:2048], retryable))
        self._tell_others(run, EndOfRequest(*owner, run.num_emitted, "error"))
        self._let_go(owner)

    def _let_go(self, owner: Owner) -> None:
        """Release an ended request as soon as none of its chunks runs or waits here."""
        is_running = self._running is not None and owner_of(self._running) == owner
        is_waiting = self._turns.waits(lambda work: owner_of(work.run) == owner)
        if owner in self._ended and not is_running and not is_waiting:
            self._release(owner)

    def _release(self, owner: Owner) -> None:
        """Free the slots. The copy thread may still read them: for frames nobody wants."""
        live = self._live.pop(owner, None)
        if live is not None:
            self._hands.release(owner)
            self._tell_released(live.run)

    def _tell_released(self, run: RunChunk) -> None:
        peer = self._process.peer
        self._send(run, Released(peer.name, peer.incarnation, run.request, run.attempt))

    def _tell_others(self, run: RunChunk, end: EndOfRequest) -> None:
        """Let everybody but the router, who is told more, let go of what they hold."""
        others = (member.inbox for rank, member in enumerate(run.members) if rank != run.rank)
        for inbox in (run.target.broker, run.target.inbox, *others):
            self._process.mesh.send(inbox, end)

    def _send(self, run: RunChunk, message: ControlMessage) -> None:
        self._process.mesh.send(run.router, message)

    def _now(self) -> float:
        return self._process.clock.now()
