"""Start-up proof that a model comes out the same with our attention over paged KV.

The layout of the KV is observed, not read from the configuration: what the model hands to
attention is what has to be kept.
"""

import torch
from torch import Tensor
from transformers import PreTrainedModel

from common.errors import ConfigError
from common.messages import KvLayout
from common.pages import PAGE, Span, join, take
from common.tensor.attend import NAME, Attend, attending
from common.tensor.attention import Partial, merge, partial_attention
from common.tensor.compatibility import Dtype
from common.tensor.kv_cache import KvCache

NUM_TOKENS = 64
PIECES = (24, 1, 39)
"""Prompt pieces of the check: a start, a single token as in decode, one with history."""

TOLERANCE = {"float32": 1e-4, "bfloat16": 0.15, "float16": 1e-2}
"""Largest relative error of the logits, each row without its mean.

Half-precision rounding alone reaches 4e-2 over 30 layers; another attention is off by about 1.
"""


@torch.inference_mode()
def probe_layout(causal: PreTrainedModel, dtype: Dtype) -> tuple[KvLayout, int]:
    """The KV layout and the number of query heads, as seen by attention in one forward.

    Raises:
        ConfigError: layers do not attend exactly once each, or differ in shape.
    """
    seen: list[int] = []
    shapes: set[tuple[int, int, int, int]] = set()

    def attend(layer: int, q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
        seen.append(layer)
        shapes.add((q.shape[0], k.shape[0], k.shape[2], v.shape[2]))
        return v.transpose(0, 1).repeat_interleave(q.shape[0] // v.shape[0], dim=1)

    with attending(attend):
        causal(torch.zeros(1, 2, dtype=torch.long), use_cache=False)
    num_layers = causal.config.num_hidden_layers
    if seen != list(range(num_layers)):
        raise ConfigError(
            f"{type(causal).__name__} has {num_layers} layers but attends in layers {seen}"
        )
    (num_heads, num_kv_heads, head_dim, value_dim), *others = shapes
    if others or head_dim != value_dim:
        raise ConfigError(f"keys and values of one shape are needed, the model has {shapes}")
    return KvLayout(num_layers, num_kv_heads, head_dim, dtype), num_heads


@torch.inference_mode()
def self_check(causal: PreTrainedModel, layout: KvLayout) -> None:
    """Compare 64 tokens in several pieces over scattered pages with the model's own attention.

    Raises:
        ConfigError: the logits differ by more than `TOLERANCE`.
    """
    vocab = causal.config.vocab_size
    ids = (torch.arange(NUM_TOKENS) * 7919 + 1) % vocab
    error = relative_error(_own(causal, ids), _paged(causal, layout, ids))
    # written so that a NaN is refused as well
    if not error <= TOLERANCE[layout.dtype]:
        raise ConfigError(
            f"{type(causal).__name__} cannot be served exactly: logits are off by {error:.2g} "
            f"of their norm, {TOLERANCE[layout.dtype]:g} is allowed in {layout.dtype}"
        )


def relative_error(expected: Tensor, actual: Tensor) -> float:
    """Norm of the difference over the norm, both [T, vocab] taken without their row means."""
    expected = expected.double() - expected.double().mean(-1, keepdim=True)
    actual = actual.double() - actual.double().mean(-1, keepdim=True)
    return float((expected - actual).norm() / expected.norm())


def _own(causal: PreTrainedModel, ids: Tensor) -> Tensor:
    causal.set_attn_implementation("eager")
    try:
        logits: Tensor = causal(ids[None], use_cache=False).logits[0]
        return logits
    finally:
        causal.set_attn_implementation(NAME)


def _paged(causal: PreTrainedModel, layout: KvLayout, ids: Tensor) -> Tensor:
    num_pages = NUM_TOKENS // PAGE
    cache = KvCache(layout, num_pages)
    pages = [*range(1, num_pages), 0]
    spans = [Span(page * PAGE, (page + 1) * PAGE) for page in pages]
    logits, start = [], 0
    for length in PIECES:
        stop = start + length
        attend = _attend_paged(cache, take(spans, 0, start), take(spans, start, stop))
        with attending(attend):
            positions = torch.arange(start, stop)
            out = causal(ids[None, start:stop], position_ids=positions[None], use_cache=False)
        logits.append(out.logits[0])
        start = stop
    return torch.cat(logits)


def _attend_paged(cache: KvCache, history: list[Span], own: list[Span]) -> Attend:
    """Causal attention of one sequence's next tokens, whose KV is written to `own`."""

    def attend(layer: int, q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
        cache.write(layer, own, k.transpose(0, 1), v.transpose(0, 1))
        part: Partial = partial_attention(q, k, v, causal=True, scale=scale)
        for keys, values in cache.views(layer, join(history)):
            before = partial_attention(
                q, keys.transpose(0, 1), values.transpose(0, 1), causal=False, scale=scale
            )
            part = merge(before, part)
        return part.out.transpose(0, 1).to(q.dtype)

    return attend
