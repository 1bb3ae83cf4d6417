import json
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from common.errors import ConfigError
from common.messages import KvLayout
from common.tensor.attention import partial_attention
from common.tensor.models import load
from tests.common.tensor.tiny_models import save, stock

SERVED = {
    "llama": {},
    "qwen2": {},
    "qwen3": {"head_dim": 16},
    "mistral": {"sliding_window": None},
    "phi3": {"sliding_window": None, "original_max_position_embeddings": 256},
    "olmo2": {},
    "granite": {"logits_scaling": 5.0, "attention_multiplier": 0.2, "residual_multiplier": 0.7},
}
LINEAR = {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 4.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
    "rope_theta": 1e4,
}
YARN = {
    "rope_type": "yarn",
    "factor": 4.0,
    "original_max_position_embeddings": 64,
    "rope_theta": 1e4,
}
DYNAMIC = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}
LONGROPE = {
    "rope_type": "longrope",
    "short_factor": [1.0] * 6,
    "long_factor": [2.0] * 6,
    "rope_theta": 1e4,
}


def causal(layer, q, k, v, scale):
    return partial_attention(q, k, v, causal=True, scale=scale).out.transpose(0, 1).to(q.dtype)


def assert_equal_to_transformers(path):
    ids = torch.randint(101, (40,), generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        expected = stock(path)(ids[None]).logits[0]
    logits = load(path, "float32").forward(ids, torch.arange(40), causal, keep=range(40))
    assert expected.std() > 0.1
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("family", SERVED)
def test_every_supported_family_equals_transformers(tmp_path, family):
    assert_equal_to_transformers(save(tmp_path, family, **SERVED[family]))


@pytest.mark.parametrize("rope", [LINEAR, LLAMA3, YARN])
def test_position_bound_rotations_equal_transformers(tmp_path, rope):
    assert_equal_to_transformers(save(tmp_path, rope_parameters=rope))


@pytest.mark.parametrize(
    ("family", "changes", "reason"),
    [
        ("mistral", {"sliding_window": 16}, "sliding"),
        ("mistral", {"sliding_window": 4096}, "sliding"),
        ("gemma2", {"head_dim": 12}, "sliding|soft"),
        ("gemma2", {"head_dim": 12, "layer_types": ["full_attention"] * 3}, "soft-capped"),
        ("llama", {"rope_parameters": DYNAMIC}, "RoPE type 'dynamic'"),
        (
            "phi3",
            {"original_max_position_embeddings": 64, "rope_parameters": LONGROPE},
            "RoPE type 'longrope'",
        ),
    ],
)
def test_what_cannot_be_exact_is_refused_with_the_reason(tmp_path, family, changes, reason):
    if family == "phi3":
        changes = {"sliding_window": None, **changes}
    with pytest.raises(ConfigError, match=reason):
        load(save(tmp_path, family, **changes), "float32")


def test_a_model_says_what_the_workers_need(tmp_path):
    model = load(save(tmp_path, "qwen3", head_dim=16, eos_token_id=[7, 9]), "bfloat16")
    assert model.layout == KvLayout(3, 2, 16, "bfloat16")
    assert (model.num_heads, model.hidden_size, model.vocab_size) == (4, 48, 101)
    assert (model.max_model_len, model.eos_ids) == (256, {7, 9})


def test_rows_that_are_not_kept_get_no_logits(tmp_path):
    model = load(save(tmp_path), "float32")
    ids, positions = torch.arange(6), torch.arange(6)
    every = model.forward(ids, positions, causal, keep=range(6))
    assert model.forward(ids, positions, causal).shape == (0, 101)
    torch.testing.assert_close(model.forward(ids, positions, causal, keep=[4, 1]), every[[4, 1]])


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("family", SERVED)
def test_slices_of_every_family_are_the_logits_of_all_rows(tmp_path, family, dtype):
    model = load(save(tmp_path, family, **SERVED[family]), dtype)
    ids, positions, seen = torch.arange(50, 90), torch.arange(40), []

    def attend(layer, *arguments):
        seen.append(layer)
        return causal(layer, *arguments)

    parts = list(model.slices(ids, positions, attend, 16))
    assert [len(part) for part in parts] == [16, 16, 8]
    assert seen == [0, 1, 2]
    every = model.forward(ids, positions, causal, keep=range(40))
    assert parts[0].dtype == every.dtype == torch.float32
    torch.testing.assert_close(torch.cat(parts), every, rtol=0, atol=1e-5)


def test_forwards_in_two_threads_attend_on_their_own(tmp_path):
    model = load(save(tmp_path), "float32")
    ids, positions = torch.arange(6), torch.arange(6)

    def ones(layer, q, k, v, scale):
        return torch.ones_like(q).transpose(0, 1)

    def run(attend):
        return [model.forward(ids, positions, attend, keep=[5]) for _ in range(20)]

    with ThreadPoolExecutor(2) as threads:
        results = list(threads.map(run, [causal, ones]))
    for attend, logits in zip([causal, ones], results, strict=True):
        assert all(torch.equal(row, run(attend)[0]) for row in logits)


def test_layers_are_attended_in_order_with_their_positions(tmp_path):
    model, seen = load(save(tmp_path), "float32"), []

    def attend(layer, q, k, v, scale):
        seen.append((layer, tuple(q.shape), tuple(k.shape), scale))
        return q.transpose(0, 1)

    model.forward(torch.arange(5), torch.arange(5), attend)
    assert seen == [(layer, (4, 5, 12), (2, 5, 12), 12**-0.5) for layer in range(3)]


def test_a_model_with_missing_weights_is_refused(tmp_path):
    path = save(tmp_path, tie_word_embeddings=True)
    config = json.loads((tmp_path / "config.json").read_text())
    config["num_hidden_layers"] = 4
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ConfigError, match="lacks weights"):
        load(path, "float32")


def test_code_in_the_directory_is_never_run(tmp_path):
    path = save(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config |= {"model_type": "unheard-of", "auto_map": {"AutoConfig": "evil.Evil"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "evil.py").write_text("raise SystemExit")
    with pytest.raises(ConfigError):
        load(path, "float32")


@pytest.mark.parametrize("family", ["mamba", "bert"])
def test_models_without_causal_attention_of_their_own_are_refused(tmp_path, family):
    with pytest.raises(ConfigError):
        load(save(tmp_path, family), "float32")


def test_a_configuration_that_transformers_refuses_is_refused(tmp_path):
    path = save(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "num_attention_heads": 5}))
    with pytest.raises(ConfigError):
        load(path, "float32")


def test_an_empty_directory_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="not a Hugging Face model directory"):
        load(str(tmp_path), "float32")
