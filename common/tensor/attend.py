"""The attention function that models call, and the `attend` of the forward under way.

transformers knows one function by the name `NAME`; what it does is decided by the caller of each
forward, per thread, through a context variable.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from torch import Tensor, nn
from transformers import AttentionInterface

from common.tensor.compatibility import check_call

NAME = "tetris"

Attend = Callable[[int, Tensor, Tensor, Tensor, float], Tensor]
"""attend(layer, q [H, T, D], k [G, T, D], v [G, T, D], scale) -> out [T, H, D] in q's dtype.

Keys carry their rotation already. The tensors belong to the model: copy what is to be kept.
"""

_attend: ContextVar[Attend] = ContextVar("attend")


@contextmanager
def attending(attend: Attend) -> Iterator[None]:
    """Let the forwards of this thread attend with `attend`."""
    token = _attend.set(attend)
    try:
        yield
    finally:
        _attend.reset(token)


def _attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    **arguments: object,
) -> tuple[Tensor, None]:
    """What transformers calls; q [1, H, T, D] after rotation, k and v [1, G, T, D]."""
    scale = arguments.pop("scaling", None) or query.shape[-1] ** -0.5
    check_call({"mask": mask, **arguments})
    layer = getattr(module, "layer_idx", None)
    assert isinstance(scale, float) and isinstance(layer, int)
    out = _attend.get()(layer, query[0], key[0], value[0], scale)
    return out[None], None


AttentionInterface.register(NAME, _attention)
