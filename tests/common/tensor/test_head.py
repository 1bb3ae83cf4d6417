import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from common.tensor.head import Head
from tests.common.tensor.tiny_models import SHAPE

IDS = torch.arange(10, 22)


def made(family, **changes):
    """A model as transformers makes it, which need not be one that is served."""
    torch.manual_seed(5)
    config = AutoConfig.for_model(family, **{**SHAPE, **changes})
    return AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()


@pytest.mark.parametrize(
    ("family", "changes"),
    [
        ("llama", {}),
        ("granite", {"logits_scaling": 5.0}),
        ("cohere", {"logit_scale": 0.3}),
        ("gemma2", {"head_dim": 12, "final_logit_softcapping": 2.0}),
        ("gpt2", {"n_positions": 256}),
    ],
)
@torch.inference_mode()
def test_any_rows_have_the_logits_that_the_whole_model_gives(family, changes):
    causal = made(family, **changes)
    expected = causal(IDS[None], use_cache=False).logits[0]
    head = Head(causal, causal.base_model(IDS[None], use_cache=False))
    for rows in (slice(0, 5), slice(11, 12), slice(5, 12), slice(0, 12)):
        torch.testing.assert_close(head.logits(rows), expected[rows], rtol=0, atol=1e-5)


@torch.inference_mode()
def test_the_model_is_not_touched_and_shares_its_weights():
    causal = made("llama")
    layers, before = causal.model, causal(IDS[None], use_cache=False).logits
    head = Head(causal, causal.base_model(IDS[None], use_cache=False))
    logits = head.logits(slice(0, 5))
    assert causal.model is layers
    assert torch.equal(causal(IDS[None], use_cache=False).logits, before)
    causal.lm_head.weight.mul_(2.0)
    torch.testing.assert_close(head.logits(slice(0, 5)), 2 * logits)
