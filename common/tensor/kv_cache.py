"""The KV of one worker: two plain tensors of slots, addressed by spans.

Which slots belong to whom is the business of `common.pages`; here they are only read and
written. One allocation for the life of the process.

In memory a KV head's slots lie one after another: a decode step at 8000 tokens reads them more
than twice as fast as slots whose heads lie side by side.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from common.errors import ConfigError, WireError
from common.messages import KvLayout
from common.pages import PAGE, Span


class KvCache:
    """Keys and values of all layers: `keys[layer]` is [slots, G, D].

    Raises:
        ConfigError: there is no memory for so many pages.
    """

    def __init__(self, layout: KvLayout, num_pages: int, device: str = "cpu") -> None:
        self.layout = layout
        num_slots = num_pages * PAGE
        shape = (layout.num_layers, layout.num_kv_heads, num_slots, layout.head_dim)
        dtype = getattr(torch, layout.dtype)
        try:
            self.keys = torch.empty(shape, dtype=dtype, device=device).transpose(1, 2)
            self.values = torch.empty(shape, dtype=dtype, device=device).transpose(1, 2)
        except RuntimeError as error:
            size = num_slots * layout.bytes_per_token() / 2**30
            raise ConfigError(f"kv_tokens: no memory for {num_slots} ({size:.0f} GiB)") from error

    def write(self, layer: int, spans: Sequence[Span], keys: Tensor, values: Tensor) -> None:
        """Store keys and values [T, G, D] of T tokens in the slots of `spans`, in order."""
        passed = 0
        for start, stop in spans:
            length = stop - start
            self.keys[layer, start:stop] = keys[passed : passed + length]
            self.values[layer, start:stop] = values[passed : passed + length]
            passed += length
        assert passed == keys.shape[0]

    def views(self, layer: int, spans: Sequence[Span]) -> list[tuple[Tensor, Tensor]]:
        """Keys and values of each span, [stop - start, G, D], without a copy."""
        return [
            (self.keys[layer, start:stop], self.values[layer, start:stop]) for start, stop in spans
        ]

    def read(self, layer: int, spans: Sequence[Span]) -> tuple[Tensor, Tensor]:
        """Keys and values [T, G, D] of all spans in order, as fresh contiguous tensors.

        Fresh, so that a link may still be sending them when the slots are used again.
        """
        parts = self.views(layer, spans)
        if not parts:
            empty = self.keys[layer, :0]
            return empty.clone(), empty.clone()
        return torch.cat([k for k, _ in parts]), torch.cat([v for _, v in parts])

    def gather(self, layer: int, spans: Sequence[Span]) -> tuple[Tensor, Tensor]:
        """As `read`, but without a copy where the slots are consecutive."""
        return self.views(layer, spans)[0] if len(spans) == 1 else self.read(layer, spans)


def pack(tensor: Tensor) -> memoryview:
    """The bytes of a tensor, without a copy where it is contiguous in host memory."""
    return tensor.cpu().view(torch.uint8).numpy().reshape(-1).data


def unpack(frame: memoryview, layout: KvLayout, num_tokens: int) -> Tensor:
    """Keys or values [num_tokens, G, D] as they lie in a received frame, without a copy.

    Raises:
        WireError: the frame has another size.
    """
    shape = (num_tokens, layout.num_kv_heads, layout.head_dim)
    dtype: torch.dtype = getattr(torch, layout.dtype)
    expected = math.prod(shape) * dtype.itemsize
    if frame.nbytes != expected:
        raise WireError(
            "size", f"{frame.nbytes} bytes for {num_tokens} tokens, {expected} expected"
        )
    if not expected:
        return torch.empty(shape, dtype=dtype)
    return torch.frombuffer(frame, dtype=dtype).view(shape)
