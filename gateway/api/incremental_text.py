"""Token ids to text, piece by piece, without broken characters."""

from collections.abc import Callable, Sequence
from typing import Literal

WINDOW = 256
"""Ids whose text may stay uncertain; random bytes are given out as they are beyond it."""
_REPLACEMENT = "\ufffd"
Role = Literal["text", "byte", "special"]
"""Text by itself, one byte of a character that the vocabulary lacks, or not text at all."""


class IncrementalText:
    """Ids of one stream to text; a character is given out when all its bytes are there.

    A window of ids is decoded again and again. It begins where a character begins, and one clean
    stretch before what is new stays in it, as some decoders look at what comes before. The pieces
    joined are the text of all ids at once. A vocabulary with tokens that are bytes of characters
    it lacks has the last word on a run of them only when the run is over, for one that is invalid
    anywhere is invalid as a whole: it is held back until then.

    Args:
        decode: the text of ids.
        role: what an id is.
    """

    def __init__(self, decode: Callable[[Sequence[int]], str], role: Callable[[int], Role]) -> None:
        self._decode = decode
        self._role = role
        self._window: list[int] = []
        self._given = 0
        self._clean = 0
        self._is_in_run = False

    def push(self, token_id: int) -> str:
        """The text that this id makes certain."""
        self._window.append(token_id)
        text = self._decode(self._window)
        ready = self._certain(text, token_id)
        delta = ready[self._given :]
        self._given += len(delta)
        if len(ready) == len(text):
            self._forget(text)
        return delta

    def _certain(self, text: str, token_id: int) -> str:
        role = self._role(token_id)
        if role != "special":  # which a run may go on behind, as if it were not there
            self._is_in_run = role == "byte"
        if len(self._window) > WINDOW:
            return text
        if self._is_in_run:
            return text[: self._given]
        # An unfinished character is at most three bytes long.
        return text[: max(len(text.rstrip(_REPLACEMENT)), len(text) - 3)]

    def flush(self) -> str:
        """The rest, when no more ids come."""
        text = self._decode(self._window)
        delta = text[self._given :]
        self._given = len(text)
        return delta

    def _forget(self, text: str) -> None:
        recent = self._window[self._clean :]
        kept = self._decode(recent)
        if text.endswith(kept) and (kept or len(self._window) > WINDOW):
            self._window, self._given = recent, len(kept)
        self._clean = len(self._window)
