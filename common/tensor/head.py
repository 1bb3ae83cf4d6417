"""A model's own head over hidden states that are there already: scaling, caps and all."""

import copy
from typing import cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPast


class _Given(nn.Module):
    """Stands in for a model's layers: whatever is asked, it says what they have said."""

    def __init__(self, outputs: BaseModelOutputWithPast) -> None:
        super().__init__()
        self._outputs = outputs

    def forward(self, *_: object, **__: object) -> BaseModelOutputWithPast:
        return self._outputs


class Head:
    """What a model does behind its last layer, for some rows at a time."""

    def __init__(self, causal: PreTrainedModel, outputs: BaseModelOutputWithPast) -> None:
        """Take what the base model of `causal` has given; the model itself stays as it is."""
        hidden = outputs.last_hidden_state
        assert hidden is not None, "a base model gives what its last layer has left"
        self._outputs, self._hidden = outputs, hidden
        # A copy that shares all weights, so that only its layers are others.
        self._model = copy.copy(causal)
        self._model._modules = dict(causal._modules)
        setattr(self._model, causal.base_model_prefix, _Given(outputs))

    @torch.inference_mode()
    def logits(self, rows: slice) -> Tensor:
        """Float32 logits [rows, vocab]."""
        hidden = self._hidden[:, rows]
        self._outputs.last_hidden_state = hidden
        answer = self._model(inputs_embeds=hidden, use_cache=False)
        return cast(Tensor, answer.logits)[0].float()
