import itertools

import pytest
import torch

from services.prefill_worker.zigzag import Block, Extent, ZigzagAttention

HEADS, GROUPS, DIM, SCALE = 4, 2, 8, 0.3


def members(size, num_history, length):
    """Positions of [history | A | B] of every member; history is dealt out like cards."""
    pieces = 2 * size
    edges = [num_history + i * length // pieces for i in range(pieces + 1)]
    return [
        (
            list(range(rank, num_history, size)),
            list(range(edges[rank], edges[rank + 1])),
            list(range(edges[pieces - 1 - rank], edges[pieces - rank])),
        )
        for rank in range(size)
    ]


def dense(q, k, v):
    k, v = (x.double().repeat_interleave(HEADS // GROUPS, dim=0) for x in (k, v))
    scores = q.double() @ k.transpose(1, 2) * SCALE
    mask = torch.ones(scores.shape[1:], dtype=torch.bool).tril()
    return (scores.masked_fill(~mask, -torch.inf).softmax(-1) @ v).transpose(0, 1)


@pytest.mark.parametrize("num_history", [0, 1, 30])
@pytest.mark.parametrize(("size", "length"), [(1, 9), (2, 1), (2, 2), (2, 23), (3, 5), (3, 40)])
def test_blocks_may_be_seen_in_any_order(size, length, num_history):
    torch.manual_seed(length)
    total = num_history + length
    q, k, v = (torch.randn(heads, total, DIM) for heads in (HEADS, GROUPS, GROUPS))
    expected = dense(q, k, v)
    parts = members(size, num_history, length)
    blocks = [
        Block(*(x[:, sum(part, [])].transpose(0, 1).contiguous() for x in (k, v)))  # noqa: RUF017
        for part in parts
    ]
    extents = [Extent(*map(len, part)) for part in parts]
    for rank, (_, a, b) in enumerate(parts):
        for order in itertools.permutations(set(range(size)) - {rank}):
            attention = ZigzagAttention(q[:, a + b], SCALE, blocks[rank], extents[rank])
            for other in order:
                attention.see(blocks[other], extents[other], lower=other < rank)
            out = attention.out()
            assert out.shape == (len(a + b), HEADS, DIM)
            torch.testing.assert_close(out.double(), expected[a + b], rtol=0, atol=3e-6)
