"""Attention of one member's zigzag shards over the KV blocks of its group, one block at a time.

Queries are the shards [A | B]; a block is [history | A | B] of one member. In positions A precedes
B, so a member's own shards are causal as one sequence. Of a lower rank's block both shards see
the history and A; of a higher rank's block A sees the history and B sees everything. All other
pairs are masked, so no mask is ever built and every member does the same work. History is seen by
all, so it may lie anywhere.

Source:
    Specification, section 4.
"""

from typing import NamedTuple

from torch import Tensor

from common.tensor.attention import Partial, merge_into, partial_attention


class Block(NamedTuple):
    """Keys and values [n, G, D] of one member: [history | A | B]."""

    keys: Tensor
    values: Tensor


class Extent(NamedTuple):
    """Tokens of each part of a member's block."""

    history: int
    a: int
    b: int


class ZigzagAttention:
    """Queries [H, T, D] of [A | B] and what they have seen so far; any part may be empty."""

    def __init__(self, q: Tensor, scale: float, own: Block, extent: Extent) -> None:
        self._q = q
        self._scale = scale
        self._num_a = extent.a
        self._total = self._see_own(own, extent.history)
        self._add(slice(None), own, extent.history)

    def see(self, block: Block, extent: Extent, *, lower: bool) -> None:
        """Attend to the block of a member of lower or of higher rank."""
        if lower:
            self._add(slice(None), block, extent.history + extent.a)
        else:
            self._add(slice(self._num_a), block, extent.history)
            self._add(slice(self._num_a, None), block, sum(extent))

    def out(self) -> Tensor:
        """[T, H, D] float32."""
        return self._total.out.transpose(0, 1)

    def _see_own(self, own: Block, num_history: int) -> Partial:
        if not self._q.shape[1]:
            return Partial(self._q.float(), self._q[..., 0].float())
        keys, values = (part[num_history:].transpose(0, 1) for part in own)
        return partial_attention(self._q, keys, values, causal=True, scale=self._scale)

    def _add(self, rows: slice, block: Block, num_keys: int) -> None:
        """Let these queries see the block's first `num_keys` keys."""
        q = self._q[:, rows]
        if not q.shape[1] or not num_keys:
            return
        keys, values = (part[:num_keys].transpose(0, 1) for part in block)
        part = partial_attention(q, keys, values, causal=False, scale=self._scale)
        merge_into(Partial(self._total.out[:, rows], self._total.lse[:, rows]), part)
