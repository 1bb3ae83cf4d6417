"""What this member still has to hand over to decode, and what may go now.

Pure: no clock, no I/O, no tensors; time is an argument. For every chunk of this member there is
one transfer. A member without tokens in a chunk has one all the same, of the commit alone, so
that the number of transfers follows from the plan.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from msgspec import structs

from common.config import Config
from common.messages import (
    Brokerage,
    Endpoint,
    Grant,
    Handshake,
    KvAck,
    KvLayout,
    Release,
    RunChunk,
    Target,
    Token,
)
from common.pages import Owner, Span
from common.sharding import num_tokens, shards
from services.prefill_worker.transfer import Parcel, Transfer


class Key(NamedTuple):
    """One chunk of one attempt, on this member."""

    request: str
    attempt: int
    chunk: int


@dataclass(frozen=True)
class Due:
    """What has to be done now; every entry is due once, until it is due again."""

    handshakes: list[Handshake] = field(default_factory=list)
    """Each to the broker of its target."""
    releases: list[tuple[Endpoint, Release]] = field(default_factory=list)
    """Each with its broker."""
    parcels: list[Parcel] = field(default_factory=list)
    through: list[Owner] = field(default_factory=list)
    """Requests whose KV this member need not hold any longer."""
    stalled: list[Owner] = field(default_factory=list)
    """Requests whose KV decode has stopped to take."""


class Sent(NamedTuple):
    """Bytes of one chunk's KV."""

    acknowledged: int
    total: int


class SendManager:
    """All transfers of one prefill instance.

    Args:
        reply: endpoint of this instance's KV link, for acknowledgements.
    """

    def __init__(self, reply: Endpoint, layout: KvLayout, config: Config) -> None:
        self._reply = reply
        self._layout = layout
        self._config = config
        self._transfers: dict[Key, Transfer] = {}
        self._brokers: dict[tuple[str, int], Endpoint] = {}

    def __len__(self) -> int:
        return len(self._transfers)

    def follow(self, brokers: Iterable[Brokerage]) -> None:
        """Which broker lends for which target now; of others, the plan's own does."""
        before = self._brokers
        self._brokers = {(one.target, one.incarnation): one.broker for one in brokers}
        for transfer in self._transfers.values():
            target = (transfer.target.name, transfer.target.incarnation)
            broker = self._brokers.get(target)
            # One that had been gone is a new one, even at the same place.
            if broker is not None and broker != before.get(target):
                transfer.follow(broker)

    def broker(self, target: Target) -> Endpoint:
        """Who lends the backends of a target now."""
        return self._brokers.get((target.name, target.incarnation), target.broker)

    def begin(self, run: RunChunk) -> None:
        """A chunk starts to be computed: its handshake is due."""
        own = shards(run.chunks[run.index], run.rank)
        intervals = tuple(interval for interval in own if interval[0] < interval[1])
        num_layers = self._layout.num_layers if intervals else 0
        target = structs.replace(run.target, broker=self.broker(run.target))
        key = Key(run.request, run.attempt, run.index)
        self._transfers[key] = Transfer(run, target, intervals, num_layers)

    def receive(self, message: Grant | KvAck, now: float) -> None:
        """A broker has lent a backend, or decode has acknowledged a frame."""
        transfer = self._transfers.get(Key(message.request, message.attempt, message.chunk))
        if transfer is None or message.rank != transfer.run.rank:
            return
        if isinstance(message, Grant):
            transfer.lend(message, now)
        else:
            transfer.acknowledge(message.layer, message.generation, now)

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
        due, stalled = Due(), set[Owner]()
        for key, transfer in self._transfers.items():
            self._add(due, transfer, now)
            if transfer.is_stalled(now, self._config.prefill.transfer_timeout):
                stalled.add(Owner(key.request, key.attempt))
        due.stalled.extend(sorted(stalled))
        due.through.extend(self._through())
        for owner in due.through + due.stalled:
            self.end(owner)
        return due

    def _add(self, due: Due, transfer: Transfer, now: float) -> None:
        handshake = transfer.ask(now, self._config.mesh.resend)
        if handshake is not None:
            due.handshakes.append(handshake)
        release = transfer.release()
        if release is not None:
            due.releases.append((transfer.target.broker, release))
        if transfer.grant is not None:
            layers = transfer.take(now, self._config.prefill.window)
            due.parcels.extend(transfer.parcel(transfer.grant, i, self._reply) for i in layers)

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
