"""The ids before the next token, as penalties look at them; no torch."""

from collections import Counter

import numpy as np
from numpy.typing import NDArray

Ids = NDArray[np.int64]


class Past:
    """Which ids the prompt has and how often each was emitted; grows with every token.

    The same after `add` as if the token had been among the first ids, so that a later attempt
    draws what the one before would have drawn.
    """

    def __init__(self, ids: bytes, num_emitted: int) -> None:
        """Read prompt and emitted ids, int32 as they travel; the last `num_emitted` are emitted."""
        every = np.frombuffer(ids, dtype="<i4")
        num_prompt = max(len(every) - num_emitted, 0)
        # On 196,608 ids a tenth of the time of numpy's `unique`, which hashes.
        prompt = np.sort(every[:num_prompt]).astype(np.int64)
        self._prompt: Ids = prompt[np.diff(prompt, prepend=prompt[:1] - 1) != 0]
        self._emitted = Counter(every[num_prompt:].tolist())

    def add(self, token: int) -> None:
        """One more token has been emitted."""
        self._emitted[token] += 1

    def emitted(self) -> tuple[Ids, Ids]:
        """Each emitted id once, and how often it was emitted."""
        size = len(self._emitted)
        ids = np.fromiter(self._emitted.keys(), np.int64, size)
        return ids, np.fromiter(self._emitted.values(), np.int64, size)

    def seen(self) -> Ids:
        """All ids of prompt and emitted tokens; one may be there twice."""
        return np.concatenate((self._prompt, self.emitted()[0]))
