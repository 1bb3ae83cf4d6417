"""Linear layers in bfloat16 whose weights are packed once, not in every call.

oneDNN wants weights in blocks. A plain linear layer packs them anew each time, which for the few
rows of a decode step costs as much as the product itself: packed layers take half the time. The
dense weights are let go of, except where an embedding shares them.
"""

import torch
from torch import Tensor, nn

ROWS = 8
"""Rows that the blocks are chosen for; any number may be multiplied."""


class PackedLinear(nn.Module):
    """Computes what `linear` would."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self._weight: Tensor = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach(), ROWS)
        self._bias = linear.bias

    def forward(self, rows: Tensor) -> Tensor:
        """[..., in] to [..., out]."""
        out = torch.ops.mkldnn._linear_pointwise(rows, self._weight, self._bias, "none", [], "")
        assert isinstance(out, Tensor)
        return out


def pack_linears(model: nn.Module) -> int:
    """Replace all bfloat16 linear layers of a model where the CPU supports it; how many."""
    if not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return 0
    found = [
        (parent, name, child)
        for parent in model.modules()
        for name, child in parent.named_children()
        if type(child) is nn.Linear and child.weight.dtype == torch.bfloat16
    ]
    for parent, name, linear in found:
        setattr(parent, name, PackedLinear(linear))
    return len(found)
