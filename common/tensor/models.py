"""Any local Hugging Face decoder, unmodified, with the caller's attention in place of its own."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from huggingface_hub.errors import StrictDataclassError
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel
from transformers.utils.logging import disable_progress_bar

from common.errors import ConfigError
from common.messages import KvLayout
from common.model_card import fingerprint, read_config
from common.tensor.attend import NAME, Attend, attending
from common.tensor.compatibility import Dtype, check_config
from common.tensor.head import Head
from common.tensor.self_check import probe_layout, self_check

UNREADABLE = (OSError, ValueError, ImportError, KeyError, StrictDataclassError)
"""What transformers raises for directories it cannot load."""


@dataclass(frozen=True)
class Model:
    """A decoder in evaluation mode; used by one thread at a time."""

    causal: PreTrainedModel
    layout: KvLayout
    num_heads: int
    hidden_size: int
    vocab_size: int
    max_model_len: int
    eos_ids: frozenset[int]
    fingerprint: str

    @torch.inference_mode()
    def forward(
        self, ids: Tensor, positions: Tensor, attend: Attend, keep: Sequence[int] = ()
    ) -> Tensor:
        """Run T tokens through all layers; float32 logits [len(keep), vocab] of rows `keep`.

        Args:
            ids: [T] token ids.
            positions: [T] absolute positions, in any order.
            attend: called once per layer, in order.
            keep: rows whose logits are wanted, through the model's own head; none skips it.
        """
        inputs = _inputs(ids, positions)
        with attending(attend):
            if not keep:
                self.causal.base_model(**inputs)
                return torch.empty(0, self.vocab_size)
            rows = torch.tensor(keep, device=ids.device)
            logits = self.causal(**inputs, logits_to_keep=rows).logits
        assert isinstance(logits, Tensor)
        return logits[0].float()

    @torch.inference_mode()
    def slices(
        self, ids: Tensor, positions: Tensor, attend: Attend, num_rows: int
    ) -> Iterator[Tensor]:
        """As `forward` that keeps every row; their logits come `num_rows` rows at a time."""
        with attending(attend):
            outputs = self.causal.base_model(**_inputs(ids, positions))
        head = Head(self.causal, outputs)
        starts = range(0, len(ids), num_rows)
        return (head.logits(slice(start, start + num_rows)) for start in starts)


def _inputs(ids: Tensor, positions: Tensor) -> dict[str, object]:
    return {"input_ids": ids[None], "position_ids": positions[None], "use_cache": False}


def load(path: str, dtype: Dtype) -> Model:
    """Load a directory with safetensors, and prove on a few tokens that it is served exactly.

    Raises:
        ConfigError: the model cannot be loaded, or not be served exactly; naming the reason.
    """
    read_config(path)
    disable_progress_bar()  # type: ignore[no-untyped-call]
    config = _read_config(path)
    check_config(config)
    causal = _read_weights(path, dtype)
    layout, num_heads = probe_layout(causal, dtype)
    self_check(causal, layout)
    return Model(
        causal=causal,
        layout=layout,
        num_heads=num_heads,
        hidden_size=config.hidden_size,
        vocab_size=config.vocab_size,
        max_model_len=config.max_position_embeddings,
        eos_ids=_eos_ids(causal),
        fingerprint=fingerprint(path),
    )


def _read_config(path: str) -> PreTrainedConfig:
    try:
        config: PreTrainedConfig = AutoConfig.from_pretrained(
            path, local_files_only=True, trust_remote_code=False
        )
    except UNREADABLE as error:
        raise ConfigError(f"{path}: {error}") from error
    return config


def _read_weights(path: str, dtype: Dtype) -> PreTrainedModel:
    try:
        loaded: object = AutoModelForCausalLM.from_pretrained(
            path,
            dtype=getattr(torch, dtype),
            attn_implementation=NAME,
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            output_loading_info=True,
        )
    except UNREADABLE as error:
        raise ConfigError(f"{path}: {error}") from error
    assert isinstance(loaded, tuple)
    causal, report = loaded
    assert isinstance(causal, PreTrainedModel)
    # transformers fills absent weights with random numbers and only warns
    if absent := sorted(report["missing_keys"]) or sorted(report["mismatched_keys"]):
        raise ConfigError(f"{path} lacks weights of the model: {absent[0]} and perhaps more")
    return causal


def _eos_ids(causal: PreTrainedModel) -> frozenset[int]:
    """The model's end-of-sequence ids, from its generation settings before its configuration."""
    for source in (causal.generation_config, causal.config):
        ids = getattr(source, "eos_token_id", None)
        if ids is not None:
            return frozenset([ids] if isinstance(ids, int) else ids)
    return frozenset()
