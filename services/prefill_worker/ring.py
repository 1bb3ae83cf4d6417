"""Balanced ring attention of one chunk: KV goes round, every member attends its own queries.

Every member sends a block to the next rank before it computes with it, and receives one from the
rank before, until it has seen the blocks of all.

Source:
    Specification, section 4.
"""

import time
from contextlib import suppress

from msgspec import structs
from torch import Tensor

from common.errors import LinkTimeout
from common.failpoints import hit
from common.messages import KvLayout, Member, RingBlock, RingReady, RunChunk
from common.sharding import history, num_tokens, shards
from common.tensor.kv_cache import pack, unpack
from services.prefill_worker.mailbox import Key, Mailbox
from services.prefill_worker.plan import me, others
from services.prefill_worker.zigzag import Block, Extent, ZigzagAttention

AGAIN = 1.0
"""Seconds after which a member that has not come is asked for the first time."""


class Ring:
    """One chunk's ring, seen from one of its members; a group of one needs no mailbox."""

    def __init__(
        self, mailbox: Mailbox, run: RunChunk, layout: KvLayout, step_timeout: float
    ) -> None:
        chunk = run.chunks[run.index]
        self._mailbox = mailbox
        self._run = run
        self._layout = layout
        self._members: tuple[Member, ...] = run.members[: chunk.size]
        self._step_timeout = step_timeout
        self._extents = [
            Extent(num_tokens(held), *(num_tokens([shard]) for shard in shards(chunk, rank)))
            for rank, held in enumerate(history(run.chunks, run.index))
        ]

    @property
    def size(self) -> int:
        """Members of the group."""
        return len(self._members)

    def gather(self, timeout: float) -> None:
        """Wait until all members stand at the start of this chunk.

        Raises:
            LinkTimeout: one did not come in time.
            Aborted: the attempt is over.
        """
        run, deadline = self._run, time.perf_counter() + timeout
        ready = RingReady(run.request, run.attempt, run.index, run.rank, me(run).incarnation)
        for _, member in others(run):
            left = deadline - time.perf_counter()
            self._mailbox.send(member.ring, ready, timeout=max(0.0, left))
        for rank, member in others(run):
            self._await(rank, member, ready, deadline)

    def _await(self, rank: int, member: Member, ready: RingReady, deadline: float) -> None:
        """Wait for one member, asking it now and then: a link that broke has lost messages."""
        run, patience = self._run, AGAIN
        key = Key(RingReady, run.request, run.attempt, run.index, rank, member.incarnation)
        while (left := deadline - time.perf_counter()) > patience:
            with suppress(LinkTimeout):
                self._mailbox.take(key, patience)
                break
            self._mailbox.post(member.ring, structs.replace(ready, again=True))
            patience *= 2  # so that few wait in the queue of a member that is busy for long
        else:
            self._mailbox.take(key, max(0.0, left))
        # From now on it may itself be waiting for what got lost on the way to it.
        self._mailbox.answer(key, member.ring, ready)

    def attend(self, layer: int, q: Tensor, own: Block, scale: float) -> Tensor:
        """Attention of the own queries over the whole group's KV.

        Args:
            layer: which layer's blocks to exchange.
            q: [H, T, D] of [A | B].
            own: this member's block.
            scale: factor of the scores.

        Returns:
            [T, H, D] float32.

        Raises:
            LinkTimeout: a block did not come or was not taken in time.
            Aborted: the attempt is over.
        """
        size, rank = self.size, self._run.rank
        if size > 1:
            self._send(layer, 0, rank, own)
        attention = ZigzagAttention(q, scale, own, self._extents[rank])
        for step in range(1, size):
            hit("ring.step")
            origin = (rank - step) % size
            block = self._receive(layer, step - 1, origin)
            if step < size - 1:
                self._send(layer, step, origin, block)
            attention.see(block, self._extents[origin], lower=origin < rank)
        return attention.out()

    def _send(self, layer: int, step: int, origin: int, block: Block) -> None:
        run = self._run
        message = RingBlock(
            request=run.request,
            attempt=run.attempt,
            chunk=run.index,
            layer=layer,
            step=step,
            origin=origin,
            num_history=self._extents[origin].history,
            incarnation=self._members[origin].incarnation,
        )
        following = self._members[(run.rank + 1) % self.size]
        frames = (pack(block.keys), pack(block.values))
        self._mailbox.send(following.ring, message, *frames, timeout=self._step_timeout)

    def _receive(self, layer: int, step: int, origin: int) -> Block:
        run, count = self._run, sum(self._extents[origin])
        incarnation = self._members[origin].incarnation
        key = Key(RingBlock, run.request, run.attempt, run.index, origin, incarnation, layer, step)
        keys, values = self._mailbox.take(key, self._step_timeout)
        return Block(unpack(keys, self._layout, count), unpack(values, self._layout, count))
