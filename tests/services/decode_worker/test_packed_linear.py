import pytest
import torch
from torch import nn

from services.decode_worker.packed_linear import PackedLinear, pack_linears

bfloat16_on_cpu = pytest.mark.skipif(
    not torch.ops.mkldnn._is_mkldnn_bf16_supported(), reason="no bfloat16 kernels on this CPU"
)


class Nested(nn.Module):
    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.embedding = nn.Embedding(40, 24, dtype=dtype)
        self.inner = nn.Sequential(nn.Linear(24, 36, dtype=dtype), nn.SiLU())
        self.down = nn.Linear(36, 24, bias=False, dtype=dtype)
        self.head = nn.Linear(24, 40, bias=False, dtype=dtype)
        self.head.weight = self.embedding.weight

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.head(self.down(self.inner(self.embedding(ids))))


@bfloat16_on_cpu
@pytest.mark.parametrize("rows", [1, 2, 8, 33])
def test_packed_layers_compute_what_the_plain_ones_do(rows: int):
    linear = nn.Linear(48, 80, dtype=torch.bfloat16)
    x = torch.randn(1, rows, 48, dtype=torch.bfloat16)
    with torch.inference_mode():
        exact = nn.functional.linear(x.double(), linear.weight.double(), linear.bias.double())
        packed = PackedLinear(linear)(x)
    assert packed.shape == exact.shape
    assert (packed.double() - exact).abs().max() <= 2**-8 * exact.abs().max()


@bfloat16_on_cpu
def test_all_linear_layers_are_replaced_and_a_shared_embedding_stays():
    model, stock = Nested(torch.bfloat16), Nested(torch.bfloat16)
    ids = torch.arange(5)
    with torch.inference_mode():
        assert pack_linears(model) == 3
        torch.testing.assert_close(model(ids), stock(ids))
        assert not [m for m in model.modules() if isinstance(m, nn.Linear)]
        assert torch.equal(model.embedding.weight, stock.embedding.weight)


def test_float32_is_left_alone():
    model = Nested(torch.float32)
    assert pack_linears(model) == 0
    assert sum(isinstance(m, nn.Linear) for m in model.modules()) == 3
