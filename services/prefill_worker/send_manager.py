"""What this member still has to hand over to decode, and what may go now.

Pure: no clock, no I/O, no tensors; time is an argument. For every chunk of this member there is
one transfer: handshake until granted, then layers as the engine finishes them, a few
unacknowledged at a time, then the commit. A member without tokens in a chunk has a transfer all
the same, of the commit alone, so that the number of transfers follows from the plan.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from common.config import Config
from common.messages import (
    DecodeJob,
    Endpoint,
    Grant,
    Handshake,
    Interval,
    KvAck,
    KvCommit,
    KvLayer,
    KvLayout,
    Peer,
    RunChunk,
    Token,
)
from common.pages import Owner, Span
from common.sharding import num_tokens, shards

RETRY = 5.0
"""Seconds without acknowledgement after which a frame is sent again."""


class Key(NamedTuple):
    """One chunk of one attempt, on this member."""

    request: str
    attempt: int
    chunk: int


class Parcel(NamedTuple):
    """A message for the KV link; a layer is read from the slots of `spans`."""

    link: Endpoint
    message: KvLayer | KvCommit
    spans: tuple[Span, ...] = ()


@dataclass(frozen=True)
class Due:
    """What has to be done now; every entry is due once, until it is due again."""

    handshakes: list[Handshake] = field(default_factory=list)
    parcels: list[Parcel] = field(default_factory=list)
    through: list[Owner] = field(default_factory=list)
    """Requests whose KV this member need not hold any longer."""
    stalled: list[Owner] = field(default_factory=list)
    """Requests whose KV decode has stopped to take."""


class Sent(NamedTuple):
    """Bytes of one chunk's KV."""

    acknowledged: int
    total: int


@dataclass
class _Transfer:
    run: RunChunk
    intervals: tuple[Interval, ...]
    num_layers: int
    asked_at: float = float("-inf")
    progress_at: float = 0.0
    grant: Grant | None = None
    spans: tuple[Span, ...] = ()
    num_computed: int = 0
    is_computed: bool = False
    first: Token | None = None
    num_sent: int = 0
    num_acked: int = 0
    in_flight: dict[int, float] = field(default_factory=dict)
    is_through: bool = False

    def take(self, now: float, window: int) -> list[int]:
        """Layers to send now, `num_layers` for the commit: first the overdue, then the next."""
        layers = [layer for layer, sent_at in self.in_flight.items() if now - sent_at >= RETRY]
        while self._is_next_due() and len(self.in_flight) < window:
            layers.append(self.num_sent)
            self.in_flight[self.num_sent] = now
            self.num_sent += 1
        self.in_flight.update(dict.fromkeys(layers, now))
        return layers

    def _is_next_due(self) -> bool:
        if self.num_sent < self.num_layers:
            return self.num_sent < self.num_computed
        # The commit follows the last acknowledgement, so that it never overtakes a lost layer.
        return self.num_sent == self.num_acked == self.num_layers and self.is_computed


class SendManager:
    """All transfers of one prefill instance.

    Args:
        peer: this instance, as brokers answer to it.
        reply: endpoint of this instance's KV link, for acknowledgements.
    """

    def __init__(self, peer: Peer, reply: Endpoint, layout: KvLayout, config: Config) -> None:
        self._peer = peer
        self._reply = reply
        self._layout = layout
        self._config = config
        self._transfers: dict[Key, _Transfer] = {}

    def __len__(self) -> int:
        return len(self._transfers)

    def begin(self, run: RunChunk) -> None:
        """A chunk starts to be computed: its handshake is due."""
        own = shards(run.chunks[run.index], run.rank)
        intervals = tuple(interval for interval in own if interval[0] < interval[1])
        num_layers = self._layout.num_layers if intervals else 0
        key = Key(run.request, run.attempt, run.index)
        self._transfers[key] = _Transfer(run, intervals, num_layers)

    def receive(self, message: Grant | KvAck, now: float) -> None:
        """A broker has lent a backend, or decode has acknowledged a frame."""
        transfer = self._transfers.get(Key(message.request, message.attempt, message.chunk))
        if transfer is None or message.rank != transfer.run.rank:
            return
        if isinstance(message, Grant):
            if transfer.grant is None:
                transfer.grant = message
                transfer.progress_at = now
        elif transfer.grant and message.generation == transfer.grant.generation:
            _acknowledge(transfer, message.layer, now)

    def on_layer(self, key: Key, layer: int, spans: Sequence[Span], now: float) -> None:
        """The engine has this layer's KV in the slots of `spans`."""
        transfer = self._transfers.get(key)
        if transfer is not None:
            transfer.spans = tuple(spans)
            transfer.num_computed = layer + 1
            transfer.progress_at = now

    def on_computed(self, key: Key, first: Token | None, now: float) -> Sent:
        """The engine is done with a chunk; `first` is token 0 on the owner of the last token."""
        transfer = self._transfers.get(key)
        if transfer is None:
            return Sent(0, 0)
        transfer.is_computed = True
        transfer.first = first
        transfer.progress_at = now
        total = num_tokens(transfer.intervals) * self._layout.bytes_per_token()
        return Sent(total * transfer.num_acked // max(transfer.num_layers, 1), total)

    def end(self, owner: Owner) -> None:
        """The request is over or failed: nothing more of it is sent. Idempotent."""
        for key in [key for key in self._transfers if key[:2] == owner]:
            del self._transfers[key]

    def due(self, now: float) -> Due:
        """What to do now; requests that are through or stalled are forgotten with it."""
        due = Due()
        for key, transfer in self._transfers.items():
            if transfer.grant is None:
                self._ask(due, transfer, now)
            else:
                layers = transfer.take(now, self._config.prefill.window)
                due.parcels.extend(self._parcel(transfer, transfer.grant, i) for i in layers)
                self._note_stall(due, key, transfer, now)
        due.through.extend(self._through())
        for owner in due.through + due.stalled:
            self.end(owner)
        return due

    def _ask(self, due: Due, transfer: _Transfer, now: float) -> None:
        if now - transfer.asked_at < self._config.mesh.resend:
            return
        transfer.asked_at = now
        run = transfer.run
        sizes = [chunk.size for chunk in run.chunks]
        place = (run.request, run.attempt, run.index, run.rank)
        due.handshakes.append(Handshake(*place, self._peer, run.target, sum(sizes), max(sizes)))

    def _note_stall(self, due: Due, key: Key, transfer: _Transfer, now: float) -> None:
        owner = Owner(key.request, key.attempt)
        is_silent = now - transfer.progress_at > self._config.prefill.step_timeout
        if transfer.in_flight and is_silent and owner not in due.stalled:
            due.stalled.append(owner)

    def _through(self) -> list[Owner]:
        """Requests of which the last chunk and all before it are through.

        Groups nest, so every member of a plan takes part in its last chunk.
        """
        last = [
            Owner(key.request, key.attempt)
            for key, transfer in self._transfers.items()
            if transfer.is_through and key.chunk == len(transfer.run.chunks) - 1
        ]
        return [
            owner
            for owner in last
            if all(t.is_through for key, t in self._transfers.items() if key[:2] == owner)
        ]

    def _parcel(self, transfer: _Transfer, grant: Grant, layer: int) -> Parcel:
        run = transfer.run
        place = (run.request, run.attempt, run.index, run.rank)
        last = run.chunks[-1]
        prompt = last.history + last.length
        if layer < transfer.num_layers:
            message = KvLayer(
                *place,
                layer=layer,
                backend=grant.backend,
                generation=grant.generation,
                intervals=transfer.intervals,
                prompt_length=prompt,
                reserve=run.reserve,
                reply=self._reply,
                incarnation=self._peer.incarnation,
            )
            return Parcel(run.target.link, message, transfer.spans)
        commit = KvCommit(
            *place,
            backend=grant.backend,
            generation=grant.generation,
            num_transfers=sum(chunk.size for chunk in run.chunks),
            num_layers=transfer.num_layers,
            num_tokens=num_tokens(transfer.intervals),
            prompt_length=prompt,
            reserve=run.reserve,
            broker=run.target.broker,
            reply=self._reply,
            incarnation=self._peer.incarnation,
            job=_job(transfer),
        )
        return Parcel(run.target.link, commit)


def _job(transfer: _Transfer) -> DecodeJob | None:
    if transfer.first is None:
        return None
    run = transfer.run
    return DecodeJob(run.gateway, run.router, transfer.first, run.sampling, run.ending)


def _acknowledge(transfer: _Transfer, layer: int, now: float) -> None:
    if transfer.in_flight.pop(layer, None) is None:
        return
    transfer.progress_at = now
    if layer == transfer.num_layers:
        transfer.is_through = True
    else:
        transfer.num_acked += 1
