"""What cannot be served exactly, told from a model's configuration and from its attention calls.

The workers keep KV of their own and attend causally to all of it: layers that see less, bend
their scores, or depend on the longest position of a forward would come out wrong silently.
"""

from collections.abc import Mapping
from typing import Literal

from transformers import PreTrainedConfig

from common.errors import ConfigError

Dtype = Literal["float32", "bfloat16", "float16"]
"""What weights and KV can be kept in."""

ROPE_TYPES = frozenset({"default", "linear", "llama3", "yarn"})
"""Rotary embeddings whose angles depend on the position alone."""

HARMLESS = frozenset({"position_ids", "use_cache", "cache_position", "output_attentions"})
"""Keyword arguments that models pass on to attention without meaning for it here."""


def check_config(config: PreTrainedConfig) -> None:
    """Refuse a model whose configuration already says that it cannot be served.

    Raises:
        ConfigError: naming the reason.
    """
    if config.is_encoder_decoder or getattr(config, "add_cross_attention", False):
        raise ConfigError("cross-attention cannot be served: only decoders are")
    _check_layers(config)
    for rope_type in _rope_types(config):
        if rope_type not in ROPE_TYPES:
            raise ConfigError(
                f"RoPE type {rope_type!r} cannot be served: its angles depend on the longest "
                f"position of a forward (served are {', '.join(sorted(ROPE_TYPES))})"
            )
    if getattr(config, "attn_logit_softcapping", None):
        raise ConfigError("soft-capped attention cannot be served")


def check_call(arguments: Mapping[str, object]) -> None:
    """Refuse an attention call that asks for more than scaled causal attention.

    Raises:
        ConfigError: naming the argument.
    """
    for name, value in arguments.items():
        if value is None or name in HARMLESS or (name == "is_causal" and value):
            continue
        if name == "dropout" and value == 0.0:
            continue
        raise ConfigError(f"attention with {name}={value} cannot be served")


def _check_layers(config: PreTrainedConfig) -> None:
    kinds = getattr(config, "layer_types", None)
    if kinds is None and getattr(config, "sliding_window", None):
        raise ConfigError(f"a sliding window of {config.sliding_window} cannot be served")
    for layer, kind in enumerate(kinds or ()):
        if kind != "full_attention":
            raise ConfigError(f"layer {layer} is {kind}: only full attention can be served")


def _rope_types(config: PreTrainedConfig) -> set[str]:
    """All rotary types in use; parameters are one table, or one for each kind of layer."""
    parameters = getattr(config, "rope_parameters", None) or {}
    tables = [parameters, *(table for table in parameters.values() if isinstance(table, dict))]
    return {table["rope_type"] for table in tables if "rope_type" in table}
