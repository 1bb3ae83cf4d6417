"""Log-probabilities of one prompt's tokens, gathered by position from messages of any order."""

from collections.abc import Sequence

from common.messages import Score


class Scores:
    """What is known of a prompt's tokens; the first one has no score.

    Args:
        num_tokens: of the prompt.
        top: the alternatives that are wanted with each.
    """

    def __init__(self, num_tokens: int, top: int) -> None:
        self.top = top
        self._scores: list[Score | None] = [None] * num_tokens
        self._missing = num_tokens - 1

    @property
    def complete(self) -> bool:
        """Whether every token but the first has its score."""
        return self._missing == 0

    def take(self, start: int, scores: Sequence[Score]) -> bool:
        """Take scores from position `start` on; False if none of them was missing.

        An attempt that goes on with emitted tokens has those scored, too: nobody wants them.
        """
        missing = self._missing
        for position, score in zip(range(start, len(self._scores)), scores, strict=False):
            if position > 0 and self._scores[position] is None:
                self._scores[position] = score
                self._missing -= 1
        return self._missing < missing

    def all(self) -> list[Score | None]:
        """One for each token of the prompt, None for the first."""
        assert self.complete, "read before all have come"
        return list(self._scores)
