"""Cache balancing before a chunk: old members send history to new ones, layer by layer.

Old members post blocks ahead of need, so that the next layers travel while this one computes.
Each layer's history is a fresh copy, so the slots may be freed while the link still sends.

Source:
    Specification, section 4.
"""

from collections import deque
from collections.abc import Sequence

from common.failpoints import hit
from common.messages import BalanceBlock, Member, RunChunk
from common.pages import Span
from common.sharding import Move, num_tokens
from common.tensor.kv_cache import KvCache, pack, unpack
from services.prefill_worker.holdings import ChunkSlots
from services.prefill_worker.mailbox import Key, Mailbox

AHEAD = 4
"""Layers that may be on their way beyond the one being computed."""


class Balance:
    """One member's part in the balancing before one chunk."""

    def __init__(
        self,
        mailbox: Mailbox,
        run: RunChunk,
        slots: ChunkSlots,
        cache: KvCache,
        step_timeout: float,
    ) -> None:
        self._mailbox = mailbox
        self._run = run
        self._cache = cache
        self._step_timeout = step_timeout
        self._taken = slots.taken
        layers = range(cache.layout.num_layers)
        self._unsent = deque((layer, *given) for layer in layers for given in slots.given)

    def advance(self, layer: int) -> None:
        """Send what this layer needs, more as far as there is room, and take in its history.

        Raises:
            LinkTimeout: a block did not come or was not taken in time.
            Aborted: the attempt is over.
        """
        self._mailbox.check()
        if self._unsent or self._taken:
            hit("balance.layer")
        while self._unsent and self._unsent[0][0] <= layer + AHEAD:
            needed = self._unsent[0][0] <= layer
            if not self._post(*self._unsent[0], needed=needed):
                break
            self._unsent.popleft()
        for move, spans in self._taken:
            self._receive(layer, move, spans)

    def _post(self, layer: int, move: Move, spans: Sequence[Span], *, needed: bool) -> bool:
        run, me = self._run, self._run.members[move.sender]
        to: Member = run.members[move.receiver]
        keys, values = self._cache.read(layer, spans)
        message = BalanceBlock(
            request=run.request,
            attempt=run.attempt,
            chunk=run.index,
            layer=layer,
            origin=move.sender,
            num_tokens=num_tokens(move.intervals),
            incarnation=me.incarnation,
        )
        frames = (pack(keys), pack(values))
        if needed:
            self._mailbox.send(to.balance, message, *frames, timeout=self._step_timeout)
            return True
        return self._mailbox.link.try_send(to.balance, message, *frames)

    def _receive(self, layer: int, move: Move, spans: Sequence[Span]) -> None:
        run, sender = self._run, self._run.members[move.sender]
        key = Key(
            BalanceBlock,
            run.request,
            run.attempt,
            run.index,
            move.sender,
            sender.incarnation,
            layer,
        )
        keys, values = self._mailbox.take(key, self._step_timeout)
        count, layout = num_tokens(move.intervals), self._cache.layout
        self._cache.write(layer, spans, unpack(keys, layout, count), unpack(values, layout, count))
