"""Tiny seeded random models of every supported family, saved as safetensors directories."""

import torch
from transformers import AutoConfig, AutoModelForCausalLM

# as in a worker; more threads only wait for each other on models this small
torch.set_num_threads(1)

SHAPE = {
    "vocab_size": 101,
    "hidden_size": 48,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "initializer_range": 0.3,
    "bos_token_id": None,
    "eos_token_id": 7,
    "pad_token_id": None,
}


def save(path, family="llama", **changes):
    """A model whose logits are far from flat, so that a wrong attention shows."""
    torch.manual_seed(5)
    config = AutoConfig.for_model(family, **{**SHAPE, **changes})
    AutoModelForCausalLM.from_config(config).save_pretrained(path)
    return str(path)


def stock(path, dtype=torch.float32):
    """transformers alone, with its own attention."""
    return AutoModelForCausalLM.from_pretrained(path, dtype=dtype, attn_implementation="eager")
