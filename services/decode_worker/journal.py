"""The tokens that a decode instance has emitted, for gateways that miss some.

Pure. An attempt's tokens are kept whole while it lives, and for a while after its end.
"""

from common.messages import Token
from common.pages import Owner

MAX_ENDED = 256
"""Ended attempts whose tokens are kept."""
MAX_TOKENS = 65536
"""Tokens of ended attempts that are kept."""


class Journal:
    """Tokens by attempt, in order of their index and without gaps."""

    def __init__(self, max_ended: int = MAX_ENDED, max_tokens: int = MAX_TOKENS) -> None:
        self._max_ended = max_ended
        self._max_tokens = max_tokens
        self._living: dict[Owner, list[Token]] = {}
        self._ended: dict[Owner, list[Token]] = {}  # the oldest first
        self._num_ended_tokens = 0

    def add(self, owner: Owner, token: Token) -> None:
        """Keep the next token of an attempt; its first makes it known."""
        self._living.setdefault(owner, []).append(token)

    def end(self, owner: Owner) -> None:
        """The attempt brings no more tokens. Idempotent."""
        tokens = self._living.pop(owner, [])[-self._max_tokens :]
        if not tokens:
            return
        self._ended[owner] = tokens
        self._num_ended_tokens += len(tokens)
        while len(self._ended) > self._max_ended or self._num_ended_tokens > self._max_tokens:
            oldest = next(iter(self._ended))
            self._num_ended_tokens -= len(self._ended.pop(oldest))

    def since(self, owner: Owner, index: int) -> list[Token] | None:
        """The tokens from `index` on; None when that one, or all of them, are forgotten."""
        tokens = self._living.get(owner) or self._ended.get(owner)
        if tokens is None or index < tokens[0].index:
            return None
        return tokens[index - tokens[0].index :]

    def clear(self) -> None:
        """Forget everything."""
        self._living.clear()
        self._ended.clear()
        self._num_ended_tokens = 0
