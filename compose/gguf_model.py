"""Turn a Llama-family GGUF file into a Hugging Face directory in float32.

Works on numpy alone, so that it takes seconds and needs neither torch nor transformers. What this
cannot turn exactly (another architecture, another tokenizer, scaled RoPE) is refused.
"""

import json
from pathlib import Path

import numpy as np
from gguf import GGUFReader
from gguf.quants import dequantize
from numpy.typing import NDArray
from safetensors.numpy import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from common.errors import ConfigError

Weights = dict[str, NDArray[np.float32]]

CONTROL_TOKEN = 3
"""GGUF's token type of special tokens."""

NAMES = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}
LAYER_NAMES = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


class GgufModel:
    """One GGUF file, read lazily."""

    def __init__(self, path: Path) -> None:
        self._reader = GGUFReader(path)
        self._refuse_what_would_be_inexact()

    def write(self, directory: Path) -> None:
        """Write weights, configuration, tokenizer and chat template into `directory`."""
        save_file(self.weights(), directory / "model.safetensors", metadata={"format": "pt"})
        self.tokenizer().save(str(directory / "tokenizer.json"))
        _write_json(directory / "config.json", self.config())
        _write_json(directory / "generation_config.json", self._token_ids())
        _write_json(directory / "tokenizer_config.json", self._tokenizer_config())
        template = self._optional("tokenizer.chat_template")
        if template is not None:
            (directory / "chat_template.jinja").write_text(str(template), encoding="utf-8")

    def weights(self) -> Weights:
        """All tensors in float32 under their Hugging Face names, [out, in]."""
        heads, kv_heads = self._int("attention.head_count"), self._int("attention.head_count_kv")
        weights: Weights = {}
        for tensor in self._reader.tensors:
            dense = dequantize(tensor.data, tensor.tensor_type).astype(np.float32, copy=False)
            if tensor.name.endswith("attn_q.weight"):
                dense = _unpermute(dense, heads)
            elif tensor.name.endswith("attn_k.weight"):
                dense = _unpermute(dense, kv_heads)
            weights[_hugging_face_name(tensor.name)] = np.ascontiguousarray(dense)
        return weights

    def config(self) -> dict[str, object]:
        """The model's config.json."""
        heads, width = self._int("attention.head_count"), self._int("embedding_length")
        tied = all(tensor.name != "output.weight" for tensor in self._reader.tensors)
        return {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "dtype": "float32",
            "hidden_act": "silu",
            "hidden_size": width,
            "intermediate_size": self._int("feed_forward_length"),
            "num_hidden_layers": self._int("block_count"),
            "num_attention_heads": heads,
            "num_key_value_heads": self._int("attention.head_count_kv"),
            "head_dim": self._int("rope.dimension_count"),
            "max_position_embeddings": self._int("context_length"),
            "rms_norm_eps": self._float("attention.layer_norm_rms_epsilon"),
            "rope_theta": self._float("rope.freq_base"),
            "tie_word_embeddings": tied,
            "vocab_size": len(self._strings("tokenizer.ggml.tokens")),
            **self._token_ids(),
        }

    def tokenizer(self) -> Tokenizer:
        """Byte-level BPE, every digit a word of its own."""
        tokens = self._strings("tokenizer.ggml.tokens")
        pairs = (merge.partition(" ") for merge in self._strings("tokenizer.ggml.merges"))
        merges = [(left, right) for left, _, right in pairs]
        vocabulary = {token: index for index, token in enumerate(tokens)}
        tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Digits(individual_digits=True),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
            ]
        )
        tokenizer.decoder = decoders.ByteLevel()
        tokenizer.add_special_tokens(
            [AddedToken(token, special=True, normalized=False) for token in self._control_tokens()]
        )
        return tokenizer

    def _refuse_what_would_be_inexact(self) -> None:
        expected = {
            "general.architecture": "llama",
            "tokenizer.ggml.model": "gpt2",
            "tokenizer.ggml.pre": "smollm",
        }
        for key, value in expected.items():
            if self._optional(key) != value:
                raise ConfigError(
                    f"this GGUF file has {key} {self._optional(key)!r}, not {value!r}"
                )
        if any(key.startswith("llama.rope.scaling") for key in self._reader.fields):
            raise ConfigError("this GGUF file has scaled RoPE, which is not converted")

    def _tokenizer_config(self) -> dict[str, object]:
        tokens = self._strings("tokenizer.ggml.tokens")
        names = {"bos_token_id": "bos_token", "eos_token_id": "eos_token"}
        names |= {"pad_token_id": "pad_token", "unk_token_id": "unk_token"}
        special = {names[key]: tokens[index] for key, index in self._token_ids().items()}
        return {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "model_max_length": self._int("context_length"),
            "clean_up_tokenization_spaces": False,
            **special,
        }

    def _token_ids(self) -> dict[str, int]:
        sources = {"bos": "bos", "eos": "eos", "pad": "padding", "unk": "unknown"}
        found = {
            f"{name}_token_id": self._optional(f"tokenizer.ggml.{source}_token_id")
            for name, source in sources.items()
        }
        return {key: int(str(value)) for key, value in found.items() if value is not None}

    def _control_tokens(self) -> list[str]:
        types = self._reader.fields["tokenizer.ggml.token_type"].contents()
        tokens = self._strings("tokenizer.ggml.tokens")
        return [token for token, kind in zip(tokens, types, strict=True) if kind == CONTROL_TOKEN]

    def _strings(self, key: str) -> list[str]:
        field = self._reader.fields[key]
        return [bytes(field.parts[index]).decode("utf-8") for index in field.data]

    def _optional(self, key: str) -> object | None:
        field = self._reader.fields.get(key)
        return None if field is None else field.contents()

    def _int(self, key: str) -> int:
        return int(self._reader.fields[f"llama.{key}"].contents())

    def _float(self, key: str) -> float:
        return float(self._reader.fields[f"llama.{key}"].contents())


def _unpermute(weight: NDArray[np.float32], heads: int) -> NDArray[np.float32]:
    """Undo GGUF's interleaving of each head's two RoPE halves; `weight` is [H * D, in]."""
    rows, columns = weight.shape
    pairs = weight.reshape(heads, rows // heads // 2, 2, columns)
    return pairs.swapaxes(1, 2).reshape(rows, columns)


def _hugging_face_name(name: str) -> str:
    if name in NAMES:
        return NAMES[name]
    prefix, layer, rest = name.split(".", 2)
    part, _, kind = rest.rpartition(".")
    if prefix != "blk" or part not in LAYER_NAMES:
        raise ConfigError(f"this GGUF file has a tensor {name!r} that Llama models do not have")
    return f"model.layers.{layer}.{LAYER_NAMES[part]}.{kind}"


def _write_json(path: Path, value: dict[str, object] | dict[str, int]) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
