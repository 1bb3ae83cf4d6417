"""Attention over a part of the keys, with its log-sum-exp, and the merge of such parts.

Shapes: q [H, T, D], k and v [G, S, D] (any strides, last dimension dense), out [H, T, D] and
lse [H, T], both float32. H is a multiple of G; neither T nor S is 0.
"""

from typing import NamedTuple

import torch
from torch import Tensor


class Partial(NamedTuple):
    """Attention over some of the keys: normalised output and natural log-sum-exp."""

    out: Tensor  # [H, T, D] float32
    lse: Tensor  # [H, T] float32


def partial_attention(q: Tensor, k: Tensor, v: Tensor, *, causal: bool, scale: float) -> Partial:
    """Attend q to k and v; `causal` only where q and k are the same positions."""
    out, lse = flash_attention(q, k, v, causal=causal, scale=scale)
    return Partial(out.float(), lse)


def flash_attention(
    q: Tensor, k: Tensor, v: Tensor, *, causal: bool, scale: float
) -> tuple[Tensor, Tensor]:
    """As `partial_attention`, but with the output in q's dtype: for when nothing is merged.

    A single query packs the heads of each KV head as rows: the kernel is many times faster so.
    """
    heads, length, dim = q.shape
    groups = k.shape[0]
    if length == 1 and heads > groups:
        q = q.reshape(groups, heads // groups, dim)
        causal = False
    out, lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
        q[None], k[None], v[None], 0.0, causal, attn_mask=None, scale=scale
    )
    return out[0].reshape(heads, length, dim), lse[0].reshape(heads, length)


def merge(a: Partial, b: Partial) -> Partial:
    """Attention over the keys of both parts, in fresh tensors."""
    merged = Partial(a.out.clone(), a.lse.clone())
    merge_into(merged, b)
    return merged


def merge_into(total: Partial, part: Partial) -> None:
    """Add the keys of `part` to `total`, in place.

    With m = log(e^lse_a + e^lse_b) the output is out_a * e^(lse_a - m) + out_b * e^(lse_b - m).
    The two weights sum to 1, and the second is the logistic function of lse_b - lse_a.
    """
    weight = torch.sigmoid(part.lse - total.lse)[..., None]
    total.out.lerp_(part.out, weight)
    torch.logaddexp(total.lse, part.lse, out=total.lse)
