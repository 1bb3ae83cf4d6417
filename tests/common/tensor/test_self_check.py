import pytest
import torch

from common.errors import ConfigError
from common.messages import KvLayout
from common.tensor.attend import NAME
from common.tensor.self_check import probe_layout, relative_error, self_check
from tests.common.tensor.tiny_models import save, stock


@pytest.fixture
def causal(tmp_path):
    model = stock(save(tmp_path))
    model.set_attn_implementation(NAME)
    return model


def test_the_layout_is_what_attention_sees(causal):
    assert probe_layout(causal, "float32") == (KvLayout(3, 2, 12, "float32"), 4)


def test_a_layer_index_that_occurs_twice_is_refused(causal):
    causal.model.layers[2].self_attn.layer_idx = 1
    with pytest.raises(ConfigError, match=r"attends in layers \[0, 1, 1\]"):
        probe_layout(causal, "float32")


def test_a_faithful_model_passes(causal):
    self_check(causal, KvLayout(3, 2, 12, "float32"))
    assert causal.config._attn_implementation == NAME


def test_a_model_that_computes_something_else_is_refused(causal):
    def tilt(module, inputs, output):
        return output * 1.05 if causal.config._attn_implementation == NAME else output

    causal.model.layers[0].mlp.register_forward_hook(tilt)
    with pytest.raises(ConfigError, match="cannot be served exactly"):
        self_check(causal, KvLayout(3, 2, 12, "float32"))


def test_the_error_ignores_what_softmax_ignores():
    logits = torch.randn(3, 7)
    assert relative_error(logits, logits + torch.tensor([[1.0], [2.0], [3.0]])) < 1e-6
    assert relative_error(logits, 2 * logits) == pytest.approx(1.0)
