import json
from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import load_file

from common.errors import ConfigError
from compose.gguf_model import GgufModel

HEADS, KV_HEADS, HEAD_DIM, WIDTH, INNER = 2, 1, 4, 32, 64
TOKENS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "1", "2", "a", "b", "ab", "\u0120"]
TEMPLATE = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
random = np.random.default_rng(7)


def permuted(weight: NDArray[np.float32], heads: int) -> NDArray[np.float32]:
    """What GGUF stores for the RoPE projections: a head's rows i and D/2 + i side by side."""
    rows = weight.reshape(heads, -1, weight.shape[1])
    half = rows.shape[1] // 2
    order = [index for first in range(half) for index in (first, half + first)]
    return rows[:, order].reshape(weight.shape)


def matrix(rows: int, columns: int) -> NDArray[np.float32]:
    return random.standard_normal((rows, columns), dtype=np.float32)


WEIGHTS = {
    "model.embed_tokens.weight": matrix(len(TOKENS), WIDTH),
    "model.norm.weight": matrix(1, WIDTH)[0],
    "model.layers.0.input_layernorm.weight": matrix(1, WIDTH)[0],
    "model.layers.0.self_attn.q_proj.weight": matrix(HEADS * HEAD_DIM, WIDTH),
    "model.layers.0.self_attn.k_proj.weight": matrix(KV_HEADS * HEAD_DIM, WIDTH),
    "model.layers.0.self_attn.v_proj.weight": matrix(KV_HEADS * HEAD_DIM, WIDTH),
    "model.layers.0.self_attn.o_proj.weight": matrix(WIDTH, HEADS * HEAD_DIM),
    "model.layers.0.post_attention_layernorm.weight": matrix(1, WIDTH)[0],
    "model.layers.0.mlp.gate_proj.weight": matrix(INNER, WIDTH),
    "model.layers.0.mlp.up_proj.weight": matrix(INNER, WIDTH),
    "model.layers.0.mlp.down_proj.weight": matrix(WIDTH, INNER),
}
STORED = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "blk.0.attn_norm": "model.layers.0.input_layernorm",
    "blk.0.attn_q": "model.layers.0.self_attn.q_proj",
    "blk.0.attn_k": "model.layers.0.self_attn.k_proj",
    "blk.0.attn_v": "model.layers.0.self_attn.v_proj",
    "blk.0.attn_output": "model.layers.0.self_attn.o_proj",
    "blk.0.ffn_norm": "model.layers.0.post_attention_layernorm",
    "blk.0.ffn_gate": "model.layers.0.mlp.gate_proj",
    "blk.0.ffn_up": "model.layers.0.mlp.up_proj",
    "blk.0.ffn_down": "model.layers.0.mlp.down_proj",
}

Change = Callable[[gguf.GGUFWriter], object]


def write_gguf(path: Path, architecture: str = "llama", change: Change | None = None) -> Path:
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_block_count(1)
    writer.add_context_length(128)
    writer.add_embedding_length(WIDTH)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_rope_dimension_count(HEAD_DIM)
    writer.add_rope_freq_base(5000.0)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(TOKENS)
    writer.add_token_types([3, 3, 3] + [1] * (len(TOKENS) - 3))
    writer.add_token_merges(["a b"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_pad_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_chat_template(TEMPLATE)
    for stored, name in STORED.items():
        weight = WEIGHTS[f"{name}.weight"]
        heads = {"attn_q": HEADS, "attn_k": KV_HEADS}.get(stored.rpartition(".")[2])
        writer.add_tensor(f"{stored}.weight", permuted(weight, heads) if heads else weight)
    if change is not None:
        change(writer)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model")
    GgufModel(write_gguf(path.parent / "tiny.gguf")).write(path)
    return path


def test_all_weights_come_out_under_their_hugging_face_names(directory: Path) -> None:
    written = load_file(directory / "model.safetensors")
    assert written.keys() == WEIGHTS.keys()
    for name, weight in WEIGHTS.items():
        np.testing.assert_array_equal(written[name], weight, err_msg=name)


def test_quantised_weights_become_float32(tmp_path: Path) -> None:
    weight = matrix(2, 64)
    packed = gguf.quants.quantize(weight, gguf.GGMLQuantizationType.Q8_0)

    def add(writer: gguf.GGUFWriter) -> None:
        writer.add_tensor("output.weight", packed, raw_dtype=gguf.GGMLQuantizationType.Q8_0)

    model = GgufModel(write_gguf(tmp_path / "q.gguf", change=add))
    written = model.weights()["lm_head.weight"]
    assert written.dtype == np.float32
    np.testing.assert_allclose(written, weight, atol=0.02)
    assert model.config()["tie_word_embeddings"] is False


def test_transformers_loads_the_model_and_its_tokenizer(directory: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(directory)
    assert model.config.rope_parameters == {"rope_theta": 5000.0, "rope_type": "default"}
    assert model.config.tie_word_embeddings
    assert model.generation_config.eos_token_id == 2
    parameters = dict(model.named_parameters())
    for name, weight in WEIGHTS.items():
        np.testing.assert_array_equal(parameters[name].detach().numpy(), weight, err_msg=name)
    tokenizer = AutoTokenizer.from_pretrained(directory)
    assert tokenizer.eos_token == "<|im_end|>"
    messages = [{"role": "user", "content": "ab<|im_end|>"}]
    assert list(tokenizer.apply_chat_template(messages, return_dict=False)) == [7, 2]


def test_every_digit_is_a_token_and_text_survives(directory: Path) -> None:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
    ids = tokenizer.encode("ab 12").ids
    assert [TOKENS[index] for index in ids] == ["ab", "\u0120", "1", "2"]
    assert tokenizer.decode(ids) == "ab 12"


def test_the_configuration_is_the_files(directory: Path) -> None:
    config = json.loads((directory / "config.json").read_text())
    shape = ("hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads")
    assert [config[key] for key in shape] == [WIDTH, INNER, HEADS, KV_HEADS]
    assert (config["head_dim"], config["vocab_size"]) == (HEAD_DIM, len(TOKENS))
    assert config["max_position_embeddings"] == 128
    assert (directory / "chat_template.jinja").read_text() == TEMPLATE


def test_another_architecture_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"general\.architecture 'qwen2'"):
        GgufModel(write_gguf(tmp_path / "other.gguf", architecture="qwen2"))


def test_scaled_rope_is_refused(tmp_path: Path) -> None:
    def scale(writer: gguf.GGUFWriter) -> None:
        writer.add_rope_scaling_factor(4.0)

    with pytest.raises(ConfigError, match="scaled RoPE"):
        GgufModel(write_gguf(tmp_path / "scaled.gguf", change=scale))


def test_an_unknown_tensor_is_refused(tmp_path: Path) -> None:
    def add(writer: gguf.GGUFWriter) -> None:
        writer.add_tensor("blk.0.attn_q_norm.weight", matrix(1, HEAD_DIM)[0])

    with pytest.raises(ConfigError, match="attn_q_norm"):
        GgufModel(write_gguf(tmp_path / "odd.gguf", change=add)).weights()
