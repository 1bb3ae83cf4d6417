"""Scores of the prompt tokens that follow this member's own, from slices of logits."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from common.errors import RequestFailed
from common.messages import RunChunk
from common.scores import Scores
from common.tensor.sampling import LOWEST
from services.prefill_worker.plan import scored


class Scoring:
    """Takes the logits of a member's rows in their order and keeps what was asked for of them."""

    def __init__(self, run: RunChunk, ids: NDArray[np.int32]) -> None:
        """The row of a position predicts the id behind it: `ids` has the look-ahead id, if any."""
        history = run.chunks[run.index].history
        self._intervals = scored(run, len(ids))
        parts = [ids[start - history : stop - history] for start, stop in self._intervals]
        following = np.concatenate([np.empty(0, np.int64), *parts])
        self._following = torch.from_numpy(following.astype(np.int64))
        self._num_top = run.prompt_logprobs
        self._num_rows = 0
        self._rows: list[tuple[Tensor, Tensor, Tensor]] = []

    def add(self, logits: Tensor) -> None:
        """Score the ids behind the next rows; logits [T, vocab] are not kept.

        Raises:
            RequestFailed: they are not numbers.
        """
        following = self._following[self._num_rows : self._num_rows + len(logits)]
        self._num_rows += len(logits)
        if len(following):  # nothing follows the prompt's last token
            self._rows.append(_score(logits[: len(following)], following, self._num_top))

    def scores(self) -> tuple[Scores, ...]:
        """All of them, for each run of positions."""
        if not self._rows:
            return ()
        columns = [torch.cat(column).numpy() for column in zip(*self._rows, strict=True)]
        runs, passed = [], 0
        for start, stop in self._intervals:
            rows = slice(passed, passed + stop - start)
            runs.append(Scores(start, *(column[rows] for column in columns)))
            passed = rows.stop
        return tuple(runs)


def _score(logits: Tensor, following: Tensor, num_top: int) -> tuple[Tensor, Tensor, Tensor]:
    """Log-probabilities [T] of the ids that follow; likeliest ids and theirs [T, K]."""
    total = logits.logsumexp(1, keepdim=True)
    if not torch.isfinite(total).all():
        raise RequestFailed("the model's logits of the prompt are not finite")
    values, ids = logits.topk(min(num_top, logits.shape[1]), dim=1)
    own = logits.gather(1, following[:, None]) - total
    return own[:, 0].clamp(LOWEST, 0.0), ids.int(), (values - total).clamp(LOWEST, 0.0)
