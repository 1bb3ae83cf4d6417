"""What a model would say and how long it would take, without the model.

Pure: tokens follow from seed and position, seconds from the shape of the work, and their error
from a seed and that shape, so that all members of a group agree and every run repeats.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

from common.config import Config, StepCost
from common.generation import Sampled
from common.latency import LatencyModel
from common.messages import Alternative, KvLayout, RunChunk, Sampling
from common.scores import Scores

FIRST, NUM_IDS = 0x20, 95
"""The ids that are drawn: bytes that can be printed. None ends a generation by itself."""


@dataclass(frozen=True)
class EmulatedModel:
    """One model on one kind of machine.

    Args:
        layout: of the KV that is not there; sets how long a transfer takes.
        prefill: seconds of a chunk.
        decode: seconds of a step.
        error: in [0, 1); seconds are off by up to this share, either way.
        seed: of the error.
    """

    layout: KvLayout
    prefill: LatencyModel
    decode: StepCost
    error: float = 0.0
    seed: int = 0

    @classmethod
    def of(cls, config: Config) -> "EmulatedModel":
        """What a configuration has emulated.

        Raises:
            ConfigError: there is no such latency model.
        """
        it = config.emulated
        latency = LatencyModel.load(config.router.latency)
        return cls(it.layout, latency, it.step, it.error, it.seed)

    def chunk_seconds(self, run: RunChunk) -> float:
        """Seconds of one chunk, the same for every member of its group.

        Raises:
            KeyError: the latency model does not know the chunk's size.
        """
        chunk = run.chunks[run.index]
        seconds = self.prefill.predict(chunk.size, chunk.history, chunk.length)
        return self._off(seconds, run.request, run.attempt, run.index)

    def step_seconds(self, contexts: Sequence[int]) -> float:
        """Seconds of one decode step over requests with so many tokens each."""
        cost, tokens = self.decode, sum(contexts)
        seconds = cost.base + cost.request * len(contexts) + cost.token * tokens
        return self._off(seconds, len(contexts), tokens)

    def layer_bytes(self, num_tokens: int) -> int:
        """Bytes of one layer's keys and values."""
        return num_tokens * self.layout.bytes_per_token() // self.layout.num_layers

    def sample(self, sampling: Sampling, position: int, forbidden: Collection[int] = ()) -> Sampled:
        """The token at `position`, of which the model is certain; never a forbidden one.

        Args:
            sampling: seed and choice are all that matters.
            position: of the token in prompt and answer.
            forbidden: fewer ids than can be drawn.
        """
        number = _number(sampling.seed, sampling.choice, position)
        while (token := FIRST + number % NUM_IDS) in forbidden:
            number += 1
        if sampling.logprobs < 0:
            return Sampled(token)
        return Sampled(token, 0.0, (Alternative(token, 0.0),)[: sampling.logprobs])

    def scores(self, start: int, ids: NDArray[np.int32], num_top: int) -> Scores:
        """Scores of prompt tokens from `start` on: made up of each one's position and id."""
        numbers = np.array(
            [_number(position, token) % 2**32 for position, token in enumerate(ids.tolist(), start)]
        )
        places = np.arange(num_top)
        return Scores(
            start,
            logprobs=(-1 - numbers % 1000 / 100).astype(np.float32),
            top_ids=(FIRST + (numbers[:, None] + places) % NUM_IDS).astype(np.int32),
            top_logprobs=np.tile(-1 - places, (len(numbers), 1)).astype(np.float32),
        )

    def _off(self, seconds: float, *key: object) -> float:
        if not self.error:
            return seconds
        share = _number(self.seed, *key) / 2**63 - 1
        return seconds * (1 + self.error * share)


def _number(*key: object) -> int:
    """A number below 2**64 that looks random, the same in every process."""
    digest = blake2b(repr(key).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little")
