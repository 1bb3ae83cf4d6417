"""One transfer: one chunk's KV on its way from this member to decode, and what may go of it now.

Pure. Handshake until granted, then layers as the engine finishes them, a few unacknowledged at a
time, then the commit. When the broker changes, a loan in use is announced to the new one until it
answers: with the same loan, or with a newer one under which all unacknowledged layers go again.
"""

from dataclasses import dataclass, field
from typing import NamedTuple

from msgspec import structs

from common.messages import (
    DecodeJob,
    Endpoint,
    Grant,
    Handshake,
    Interval,
    KvCommit,
    KvLayer,
    Loan,
    Peer,
    Release,
    RunChunk,
    Target,
    Token,
)
from common.pages import Span
from common.sharding import num_tokens
from services.prefill_worker.plan import me

RETRY = 2.0
"""Seconds without acknowledgement after which a frame is sent again."""
NEVER = float("-inf")


class Parcel(NamedTuple):
    """A message for the KV link; a layer is read from the slots of `spans`."""

    link: Endpoint
    message: KvLayer | KvCommit
    spans: tuple[Span, ...] = ()


@dataclass
class Transfer:
    """The state of one transfer; a member without tokens in the chunk sends the commit alone."""

    run: RunChunk
    target: Target
    """Of the run, with the broker of today."""
    intervals: tuple[Interval, ...]
    num_layers: int
    asked_at: float = NEVER
    progress_at: float = 0.0
    grant: Grant | None = None
    is_announcing: bool = False
    """Whether the broker has yet to confirm the loan in use."""
    is_released: bool = False
    """Whether the broker was told that the transfer is through."""
    spans: tuple[Span, ...] = ()
    num_computed: int = 0
    is_computed: bool = False
    first: Token | None = None
    num_sent: int = 0
    num_acked: int = 0
    in_flight: dict[int, float] = field(default_factory=dict)
    is_through: bool = False

    def follow(self, broker: Endpoint) -> None:
        """From now on this broker lends."""
        self.target = structs.replace(self.target, broker=broker)
        self.asked_at = NEVER
        self.is_announcing = self.grant is not None and not self.is_through

    def lend(self, grant: Grant, now: float) -> None:
        """Use a loan; the same again only confirms it, an older one is late."""
        if self.grant is None or grant.generation > self.grant.generation:
            self.in_flight = dict.fromkeys(self.in_flight, NEVER)
        elif grant != self.grant or not self.is_announcing:
            return
        self.grant = grant
        self.is_announcing = False
        self.progress_at = now

    def ask(self, now: float, resend: float) -> Handshake | None:
        """What the broker is to be told now, as long as it has something to answer."""
        is_settled = self.grant is not None and not self.is_announcing
        if is_settled or now - self.asked_at < resend:
            return None
        self.asked_at = now
        run, sender = self.run, me(self.run)
        sizes = [chunk.size for chunk in run.chunks]
        return Handshake(
            *(run.request, run.attempt, run.index, run.rank),
            sender=Peer(sender.name, sender.incarnation, sender.inbox),
            target=self.target,
            num_transfers=sum(sizes),
            num_senders=max(sizes),
            held=Loan(self.grant.backend, self.grant.generation) if self.grant else None,
        )

    def release(self) -> Release | None:
        """What the broker is told once the transfer is through.

        Decode says so as well, but that may get lost, or go to the broker before this one.
        """
        if not self.is_through or self.is_released:
            return None
        self.is_released = True
        run, target = self.run, self.target
        place = (run.request, run.attempt, run.index, run.rank)
        return Release(*place, target.name, target.incarnation)

    def take(self, now: float, window: int) -> list[int]:
        """Layers to send now, `num_layers` for the commit: first the overdue, then the next."""
        layers = [layer for layer, sent_at in self.in_flight.items() if now - sent_at >= RETRY]
        while self._is_next_due() and len(self.in_flight) < window:
            layers.append(self.num_sent)
            self.in_flight[self.num_sent] = now
            self.num_sent += 1
        self.in_flight.update(dict.fromkeys(layers, now))
        return layers

    def acknowledge(self, layer: int, generation: int, now: float) -> None:
        """Decode has a frame of the loan in use; any other does not count."""
        if self.grant is None or generation != self.grant.generation:
            return
        if self.in_flight.pop(layer, None) is None:
            return
        self.progress_at = now
        if layer == self.num_layers:
            self.is_through = True
        else:
            self.num_acked += 1

    def is_stalled(self, now: float, timeout: float) -> bool:
        """Whether decode takes nothing of what is under way; a broker may take its time."""
        is_silent = now - self.progress_at > timeout
        return bool(self.in_flight) and is_silent and not self.is_announcing

    def parcel(self, grant: Grant, layer: int, reply: Endpoint) -> Parcel:
        """A layer, or the commit, under a loan; decode acknowledges to `reply`."""
        run = self.run
        place = (run.request, run.attempt, run.index, run.rank)
        last = run.chunks[-1]
        prompt = last.history + last.length
        if layer < self.num_layers:
            message = KvLayer(
                *place,
                layer=layer,
                backend=grant.backend,
                generation=grant.generation,
                intervals=self.intervals,
                prompt_length=prompt,
                reserve=run.reserve,
                reply=reply,
                incarnation=me(run).incarnation,
            )
            return Parcel(self.target.link, message, self.spans)
        commit = KvCommit(
            *place,
            backend=grant.backend,
            generation=grant.generation,
            num_transfers=sum(chunk.size for chunk in run.chunks),
            num_layers=self.num_layers,
            num_tokens=num_tokens(self.intervals),
            prompt_length=prompt,
            reserve=run.reserve,
            broker=self.target.broker,
            reply=reply,
            incarnation=me(run).incarnation,
            job=self._job(),
            epoch=run.epoch,
        )
        return Parcel(self.target.link, commit)

    def _is_next_due(self) -> bool:
        if self.num_sent < self.num_layers:
            return self.num_sent < self.num_computed
        # The commit follows the last acknowledgement, so that it never overtakes a lost layer.
        return self.num_sent == self.num_acked == self.num_layers and self.is_computed

    def _job(self) -> DecodeJob | None:
        if self.first is None:
            return None
        run = self.run
        return DecodeJob(run.gateway, run.router, self.first, run.sampling, run.ending, run.past)
