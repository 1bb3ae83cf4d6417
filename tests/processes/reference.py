"""What `transformers` alone says: the same model with its stock attention and cache."""

from dataclasses import dataclass

import torch
from transformers import AutoModelForCausalLM


@dataclass(frozen=True)
class Greedy:
    """Greedy continuation: ids, and the log-softmax [vocab] behind each of them."""

    ids: list[int]
    logprobs: list[torch.Tensor]


class Reference:
    """A stock model on one thread in float32."""

    def __init__(self, path: str) -> None:
        torch.set_num_threads(1)
        self._model = AutoModelForCausalLM.from_pretrained(
            path, dtype=torch.float32, attn_implementation="sdpa"
        ).eval()

    @torch.inference_mode()
    def greedy(self, prompt: list[int], count: int) -> Greedy:
        """`count` greedy tokens after the prompt; the end of text does not end it."""
        ids, logprobs = [], []
        answer = self._model(torch.tensor([prompt]), use_cache=True, logits_to_keep=1)
        for _ in range(count):
            logits = answer.logits[0, -1].float()
            ids.append(int(logits.argmax()))
            logprobs.append(torch.log_softmax(logits, dim=-1))
            answer = self._model(
                torch.tensor([ids[-1:]]), past_key_values=answer.past_key_values, use_cache=True
            )
        return Greedy(ids, logprobs)
