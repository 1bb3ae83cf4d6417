"""Log-probabilities of prompt tokens, compact: a long prompt has many."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from common.messages import Alternative, Score


@dataclass(frozen=True)
class Scores:
    """Scores of the prompt tokens from position `start` on, one row for each.

    Args:
        logprobs: [T], of the tokens themselves.
        top_ids: [T, K], of the likeliest tokens, the likeliest first.
        top_logprobs: [T, K].
    """

    start: int
    logprobs: NDArray[np.float32]
    top_ids: NDArray[np.int32]
    top_logprobs: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.logprobs)

    def message(self, rows: slice) -> tuple[Score, ...]:
        """Some rows as they travel."""
        whole = zip(
            self.logprobs[rows].tolist(),
            self.top_ids[rows].tolist(),
            self.top_logprobs[rows].tolist(),
            strict=True,
        )
        return tuple(
            Score(logprob, tuple(map(Alternative, ids, logprobs)))
            for logprob, ids, logprobs in whole
        )
