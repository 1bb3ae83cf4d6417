"""The real engine of a decode instance: one token for each sequence over the paged KV.

Synchronous, used by the engine thread alone. A step writes one slot per sequence and layer, and
attends over views of the cache: nothing of the history is copied.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from common.errors import RequestFailed
from common.generation import Sampled
from common.pages import Span, take
from common.tensor.attend import Attend
from common.tensor.attention import flash_attention, merge_into, partial_attention
from common.tensor.kv_cache import KvCache
from common.tensor.models import Model
from common.tensor.sampling import sample
from common.tensor.self_check import self_check
from services.decode_worker.packed_linear import pack_linears
from services.decode_worker.request import Entry


class ModelEngine:
    """Decodes with a model over the cache that the copy thread fills.

    The model is this engine's from now on: its linear layers are packed for few rows.
    """

    def __init__(self, model: Model, cache: KvCache) -> None:
        if pack_linears(model.causal):
            self_check(model.causal, model.layout)
        self._model = model
        # one [G, slots, D] per layer
        self._keys = list(cache.keys.transpose(1, 2).unbind())
        self._values = list(cache.values.transpose(1, 2).unbind())

    @torch.inference_mode()
    def step(self, batch: Sequence[Entry]) -> list[Sampled | None]:
        """One token for each entry, in order; None where the logits are not finite."""
        ids = torch.tensor([entry.last for entry in batch])
        positions = torch.tensor([entry.position for entry in batch])
        contexts = [take(entry.spans, 0, entry.position + 1) for entry in batch]
        attend = self._attend(contexts)
        logits = self._model.forward(ids, positions, attend, keep=range(len(batch)))
        return [_draw(row, entry) for row, entry in zip(logits, batch, strict=True)]

    def _attend(self, contexts: Sequence[Sequence[Span]]) -> Attend:
        slots = torch.tensor([spans[-1].stop - 1 for spans in contexts])

        def attend(layer: int, q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
            keys, values = self._keys[layer], self._values[layer]
            keys.index_copy_(1, slots, k)
            values.index_copy_(1, slots, v)
            outs = [
                _attend_spans(q.narrow(1, row, 1), keys, values, spans, scale)
                for row, spans in enumerate(contexts)
            ]
            out = outs[0] if len(outs) == 1 else torch.cat(outs, dim=1)
            return out.transpose(0, 1)

        return attend


def _draw(logits: Tensor, entry: Entry) -> Sampled | None:
    try:
        return sample(logits, entry.sampling, entry.position + 1, entry.forbidden, entry.past)
    except RequestFailed:
        return None


def _attend_spans(
    q: Tensor, keys: Tensor, values: Tensor, spans: Sequence[Span], scale: float
) -> Tensor:
    """Attention [H, 1, D] of one query [H, 1, D] to its slots of the pool [G, slots, D]."""
    first, *others = (
        (q, keys.narrow(1, start, stop - start), values.narrow(1, start, stop - start))
        for start, stop in spans
    )
    if not others:
        return flash_attention(*first, causal=False, scale=scale)[0]
    whole = partial_attention(*first, causal=False, scale=scale)
    for other in others:
        merge_into(whole, partial_attention(*other, causal=False, scale=scale))
    return whole.out.to(q.dtype)
