"""One prefill instance: runs chunks, one at a time, together with the chunk's group.

Made, used and closed in the engine thread; only `holdings`, `spans`, `release`, `abort` and `stop`
are for any thread. A failed chunk ends its attempt here: all its slots are freed, a later chunk of
it is refused, and the others of its group leave it too.
"""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from common.errors import RequestFailed
from common.failpoints import hit
from common.generation import finish, forbidden
from common.links.zmq import ZmqLink
from common.messages import RunChunk, Token
from common.pages import PAGE, Owner, PagePool, Span, join
from common.past import Past
from common.sharding import shards
from common.tensor.kv_cache import KvCache
from common.tensor.models import Model
from common.tensor.sampling import sample
from services.prefill_worker.aborts import Aborts
from services.prefill_worker.balance import Balance
from services.prefill_worker.hands import ChunkResult, Moments
from services.prefill_worker.holdings import ChunkSlots, Holdings
from services.prefill_worker.mailbox import Mailbox
from services.prefill_worker.plan import abort_of, owner_of
from services.prefill_worker.ring import Ring
from services.prefill_worker.scoring import Scoring
from services.prefill_worker.zigzag import Block

OnLayer = Callable[[int], None]

ROWS = 128
"""Rows whose logits are there at a time when the prompt is scored."""
PATIENCE = 5.0
"""Times a chunk's predicted seconds that one step of its ring may take."""


@dataclass(frozen=True)
class Bounds:
    """Seconds that a member waits for its group: at a chunk's start, and for one block at least."""

    start: float
    step: float


@dataclass(frozen=True)
class Links:
    """The links to the other members, one for each kind of traffic."""

    ring: ZmqLink
    balance: ZmqLink


class Engine:
    """A model, its KV, and the links to the other members."""

    def __init__(self, model: Model, num_tokens: int, links: Links, bounds: Bounds) -> None:
        """Allocate KV for `num_tokens` tokens, rounded up to pages."""
        num_pages = -(-num_tokens // PAGE)
        self.model = model
        self.cache = KvCache(model.layout, num_pages)
        self.holdings = Holdings(PagePool(num_pages))
        self.links = links
        self.bounds = bounds
        self._aborts = Aborts()
        self._ring = Mailbox(links.ring, self._aborts)
        self._balance = Mailbox(links.balance, self._aborts)

    def spans(self, request: str, attempt: int, chunk: int) -> list[Span]:
        """Slots of this member's own shards of a chunk, in the order of their intervals."""
        return self.holdings.spans(request, attempt, chunk)

    def release(self, request: str, attempt: int) -> None:
        """Free everything of an attempt; idempotent."""
        self.holdings.release(request, attempt)

    def abort(self, request: str, attempt: int) -> None:
        """Have the computation of an attempt end with `Aborted`, within a layer; any thread."""
        self._aborts.end(Owner(request, attempt))

    def stop(self) -> None:
        """Have every computation end so, from now on; any thread."""
        self._aborts.stop()

    def run(
        self,
        run: RunChunk,
        ids: NDArray[np.int32],
        on_ready: Callable[[], None],
        on_layer: OnLayer,
    ) -> ChunkResult:
        """Compute this member's part of a chunk.

        Args:
            run: what to run; `members[rank]` is this instance.
            ids: the chunk's token ids; a look-ahead id may follow.
            on_ready: called when this member starts to wait for its group.
            on_layer: called when this member's KV of a layer is in the cache.

        Raises:
            TetrisError: `OutOfPages`, `LinkTimeout`, `RequestFailed`, `WireError` or `Aborted`;
                the attempt holds no slots here any more, and the group knows.
        """
        try:
            return self._run(run, ids, on_ready, on_layer)
        except BaseException:
            self._leave(run)
            raise

    def close(self) -> None:
        """Close the links."""
        self.links.ring.close()
        self.links.balance.close()

    def _run(
        self,
        run: RunChunk,
        ids: NDArray[np.int32],
        on_ready: Callable[[], None],
        on_layer: OnLayer,
    ) -> ChunkResult:
        hit("chunk.start")
        self._aborts.begin(run)
        for mailbox in (self._ring, self._balance):
            mailbox.begin(run)
        _check_ids(run, ids, self.model.vocab_size)
        slots = self.holdings.open(run)
        step = max(self.bounds.step, PATIENCE * run.predicted)
        ring = Ring(self._ring, run, self.model.layout, step)
        on_ready()
        begun = time.monotonic()
        ring.gather(self.bounds.start)
        gather, gathered = self._ring.waited, time.monotonic()
        balance = Balance(self._balance, run, slots, self.cache, step)
        scoring = Scoring(run, ids) if run.prompt_logprobs >= 0 else None
        layers = Layers(self.cache, slots, ring, balance, on_layer)
        logits, scored = self._forward(run, ids, layers, scoring)
        ended = time.monotonic()
        first = self._sample(run, logits) if len(logits) else None
        moments = Moments(begun, gathered, ended, time.monotonic())
        wait, moved = self._ring.waited, self._balance.waited
        compute = max(moments.sampled - begun - wait - moved - scored, 0.0)
        scores = scoring.scores() if scoring is not None else ()
        return ChunkResult(first, compute, wait, gather, moved, moments, scored, scores)

    def _leave(self, run: RunChunk) -> None:
        """End an attempt here and tell all of its plan, for nobody is to wait for this member."""
        self.release(run.request, run.attempt)
        for mailbox in (self._ring, self._balance):
            mailbox.forget(owner_of(run))
        for rank, member in enumerate(run.members):
            if rank != run.rank:  # each waits on one link at a time
                self._ring.post(member.ring, abort_of(run))
                self._balance.post(member.balance, abort_of(run))

    def _forward(
        self, run: RunChunk, ids: NDArray[np.int32], layers: "Layers", scoring: Scoring | None
    ) -> tuple[Tensor, float]:
        """Logits [1, vocab] of the prompt's last token where this member holds it, else [0, …].

        A member without tokens still serves its history and passes blocks on. With them come the
        seconds that scoring took.
        """
        chunk = run.chunks[run.index]
        intervals = shards(chunk, run.rank)
        positions = torch.cat([torch.arange(*interval) for interval in intervals])
        if not len(positions):
            layers.pass_on()
            return torch.empty(0, self.model.vocab_size), 0.0
        own = torch.from_numpy(ids.astype(np.int64))[positions - chunk.history]
        last = run.index == len(run.chunks) - 1 and intervals[1][1] == chunk.history + chunk.length
        if scoring is None:
            keep = [len(own) - 1] if last else []
            return self.model.forward(own, positions, layers.attend, keep), 0.0
        logits, seconds = self._score(
            self.model.slices(own, positions, layers.attend, ROWS), scoring
        )
        return logits if last else logits[:0], seconds

    def _score(self, slices: Iterable[Tensor], scoring: Scoring) -> tuple[Tensor, float]:
        """Logits [1, vocab] of the last row, and the seconds that all of them took."""
        started = time.perf_counter()
        logits = torch.empty(0)
        for logits in slices:
            self._aborts.check()
            scoring.add(logits)
        return logits[-1:], time.perf_counter() - started

    def _sample(self, run: RunChunk, logits: Tensor) -> Token:
        position = run.chunks[-1].history + run.chunks[-1].length
        eos_ids = self.model.eos_ids
        barred, past = forbidden(run.ending, eos_ids, 0), None
        if run.sampling.looks_back:
            if len(run.past) != 4 * position:
                raise RequestFailed(f"{len(run.past)} bytes are not the {position} ids so far")
            past = Past(run.past, run.num_emitted)
        drawn = sample(logits[0], run.sampling, position, barred, past)
        return Token(
            request=run.request,
            attempt=run.attempt,
            index=run.num_emitted,
            id=drawn.id,
            logprob=drawn.logprob,
            top=drawn.top,
            finish=finish(run.ending, eos_ids, drawn.id, 1),
        )


class Layers:
    """What happens to every layer of one chunk, between projection and the rest of the layer."""

    def __init__(
        self, cache: KvCache, slots: ChunkSlots, ring: Ring, balance: Balance, on_layer: OnLayer
    ) -> None:
        self._cache = cache
        self._slots = slots
        self._ring = ring
        self._balance = balance
        self._on_layer = on_layer

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
        """Keep k and v [G, T, D], attend q [H, T, D] to the whole group's KV; [T, H, D]."""
        self._cache.write(layer, self._slots.own, k.transpose(0, 1), v.transpose(0, 1))
        self._done(layer)
        return self._exchange(layer, q, scale)

    def pass_on(self) -> None:
        """Take part in every layer's exchange without queries of one's own."""
        layout = self._cache.layout
        nothing = torch.empty(layout.num_kv_heads, 0, layout.head_dim)
        for layer in range(layout.num_layers):
            self._done(layer)
            self._exchange(layer, nothing, 1.0)

    def _done(self, layer: int) -> None:
        hit("chunk.layer")
        self._on_layer(layer)

    def _exchange(self, layer: int, q: Tensor, scale: float) -> Tensor:
        self._balance.advance(layer)
        spans = join([*self._slots.history, *self._slots.own])
        # A block that is sent may still be under way when its slots are used again.
        read = self._cache.gather if self._ring.size == 1 else self._cache.read
        keys, values = read(layer, spans)
        return self._ring.attend(layer, q, Block(keys, values), scale).to(q.dtype)


def _check_ids(run: RunChunk, ids: NDArray[np.int32], vocab_size: int) -> None:
    """Refuse ids that would break the model; all members of a group judge alike."""
    length = run.chunks[run.index].length
    if len(ids) not in (length, length + 1):
        raise RequestFailed(f"{len(ids)} ids for a chunk of {length} tokens")
    if ids.min() < 0 or ids.max() >= vocab_size:
        raise RequestFailed(f"an id of the prompt is not among the model's {vocab_size}")
