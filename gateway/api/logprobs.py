"""Log-probabilities in the forms of both routes."""

from collections.abc import Sequence

from common.messages import Alternative, Score, Token
from gateway.api.answers import (
    ChatEntry,
    ChatLogprobs,
    PromptEntry,
    PromptLogprobs,
    TextLogprobs,
    TopEntry,
)
from gateway.api.names import Names
from gateway.mesh.scores import Scores


class TextLog:
    """What one choice of a completion tells of its tokens, piece by piece; offsets run on.

    Args:
        top: alternatives told with each token.
    """

    def __init__(self, names: Names, top: int) -> None:
        self._names = names
        self._top = top
        self._offset = 0

    def prompt(self, ids: Sequence[int], scores: Scores) -> TextLogprobs:
        """The prompt's tokens; there is nothing to tell of the first one but its text."""
        known = scores.all()
        return self._entries(ids, known)

    def tokens(self, tokens: Sequence[Token]) -> TextLogprobs:
        """Tokens of the answer."""
        scores = [None if t.logprob is None else Score(t.logprob, t.top) for t in tokens]
        return self._entries([token.id for token in tokens], scores)

    def _entries(self, ids: Sequence[int], scores: Sequence[Score | None]) -> TextLogprobs:
        offsets = []
        for token_id in ids:
            offsets.append(self._offset)
            self._offset += len(self._names.text(token_id))
        return TextLogprobs(
            [self._names(token_id) for token_id in ids],
            [None if score is None else score.logprob for score in scores],
            [self._alternatives(i, score) for i, score in zip(ids, scores, strict=True)],
            offsets,
        )

    def _alternatives(self, token_id: int, score: Score | None) -> dict[str, float] | None:
        """The likeliest tokens, and the token itself; of two with one name the likelier counts."""
        if score is None:
            return None
        named: dict[str, float] = {}
        for entry in (*score.top[: self._top], Alternative(token_id, score.logprob)):
            named.setdefault(self._names(entry.id), entry.logprob)
        return named


def joined(parts: Sequence[TextLogprobs]) -> TextLogprobs:
    """Consecutive parts as one."""
    return TextLogprobs(
        [token for part in parts for token in part.tokens],
        [logprob for part in parts for logprob in part.token_logprobs],
        [top for part in parts for top in part.top_logprobs],
        [offset for part in parts for offset in part.text_offset],
    )


def chat_log(names: Names, tokens: Sequence[Token]) -> ChatLogprobs:
    """What a chat tells of its tokens."""

    def entry(token_id: int, logprob: float) -> TopEntry:
        return TopEntry(names(token_id), logprob, list(names.text(token_id).encode()))

    content = []
    for token in tokens:
        own = entry(token.id, token.logprob or 0.0)
        top = [entry(one.id, one.logprob) for one in token.top]
        content.append(ChatEntry(own.token, own.logprob, own.bytes, top))
    return ChatLogprobs(content)


def prompt_log(names: Names, ids: Sequence[int], scores: Scores, top: int) -> PromptLogprobs:
    """The field `prompt_logprobs`: by position the token itself, then the likeliest ones.

    A rank is known only of tokens among the alternatives.
    """

    def entries(token_id: int, score: Score) -> dict[int, PromptEntry]:
        own = PromptEntry(score.logprob, None, names.text(token_id))
        found = {token_id: own}
        for rank, one in enumerate(score.top, start=1):
            if rank <= top or one.id == token_id:
                found[one.id] = PromptEntry(one.logprob, rank, names.text(one.id))
        return found

    known = zip(ids, scores.all(), strict=True)
    return [None if score is None else entries(token_id, score) for token_id, score in known]
