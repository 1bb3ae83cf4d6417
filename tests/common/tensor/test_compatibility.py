import pytest
from transformers import LlamaConfig, MistralConfig, T5Config

from common.errors import ConfigError
from common.tensor.compatibility import check_call, check_config


def test_harmless_arguments_pass():
    check_call({"mask": None, "dropout": 0.0, "use_cache": False, "is_causal": True})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("sliding_window", 8),
        ("softcap", 50.0),
        ("dropout", 0.1),
        ("s_aux", []),
        ("is_causal", False),
    ],
)
def test_any_other_argument_is_refused_by_name(name, value):
    with pytest.raises(ConfigError, match=name):
        check_call({name: value})


def test_a_plain_decoder_passes():
    check_config(LlamaConfig())


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        (T5Config(), "cross-attention"),
        (LlamaConfig(add_cross_attention=True), "cross-attention"),
        (MistralConfig(), "sliding window of 4096"),
        (
            LlamaConfig(num_hidden_layers=2, layer_types=["full_attention", "linear_attention"]),
            "layer 1 is linear",
        ),
        (LlamaConfig(attn_logit_softcapping=30.0), "soft-capped"),
        (
            LlamaConfig(rope_parameters={"full_attention": {"rope_type": "dynamic"}}),
            "RoPE type 'dynamic'",
        ),
    ],
)
def test_configurations_are_refused_with_the_reason(config, reason):
    with pytest.raises(ConfigError, match=reason):
        check_config(config)
