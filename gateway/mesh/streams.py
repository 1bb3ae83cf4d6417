"""The stream of one request: tokens of any order in, text in order out, each position once.

A stream is also the request's journal: prompt ids, sampling with its seed, and every emitted
token, which is all that a new attempt needs to go on with the next token. Pure: no clock, no I/O.
"""

from array import array
from collections.abc import Sequence
from typing import Protocol

from msgspec import Struct

from common.messages import Ending, Finish, Sampling, Token
from gateway.api.stops import Stops
from gateway.mesh.scores import Scores


class Detokenizer(Protocol):
    """Turns ids into text piece by piece; text that a later id may change is kept back."""

    def push(self, token_id: int) -> str:
        """The text that this id makes certain."""

    def flush(self) -> str:
        """The rest, when no more ids come."""


class Piece(Struct, frozen=True):
    """What one token adds to the answer; `text` may be empty."""

    token: Token
    text: str
    finish: Finish | None


class Usage(Struct, frozen=True):
    """Tokens taken and given."""

    prompt: int
    completion: int


class Stream:
    """One request's journal and its text.

    Args:
        prompt: token ids.
        ending: as of the first attempt; later ones are counted down from it.
        scores: of the prompt, to be gathered with the tokens.
    """

    def __init__(
        self,
        prompt: Sequence[int],
        sampling: Sampling,
        ending: Ending,
        stops: Stops,
        detokenizer: Detokenizer,
        scores: Scores | None = None,
    ) -> None:
        self.prompt = array("i", prompt)
        self.sampling = sampling
        self.attempt = 1
        self.emitted: list[Token] = []
        self.scores = scores
        self._ending = ending
        self._stops = stops
        self._detokenizer = detokenizer
        self._ahead: dict[int, Token] = {}
        self._pieces: list[Piece] = []
        self._finish: Finish | None = None
        self._closed = False

    # Tokens in

    def take(self, token: Token) -> bool:
        """Take a token in; False if it is of another attempt, known already or out of bounds."""
        if self.ended or token.attempt != self.attempt or token.index in self._ahead:
            return False
        if not len(self.emitted) <= token.index < self._ending.max_tokens:
            return False
        self._ahead[token.index] = token
        self._grow()
        return True

    def restart(self) -> None:
        """Begin the next attempt: what is still on its way from the last one is void."""
        self.attempt += 1
        self._ahead.clear()

    # What the current attempt begins with. One that comes after the last token looks at the
    # prompt alone, for the scores that are missing, and ends with a token that nobody wants.

    def ids(self) -> "array[int]":
        """Its input: prompt and emitted ids."""
        if self.ended:
            return self.prompt
        return self.prompt + array("i", [token.id for token in self.emitted])

    def ending(self) -> Ending:
        """What ends it, counted from its first token."""
        if self.ended:
            return Ending(max_tokens=1, ignore_eos=True)
        done = len(self.emitted)
        return Ending(
            max_tokens=self._ending.max_tokens - done,
            min_tokens=max(0, self._ending.min_tokens - done),
            ignore_eos=self._ending.ignore_eos,
            stop_token_ids=self._ending.stop_token_ids,
        )

    # Text out

    @property
    def closed(self) -> bool:
        """Whether the workers have ended this request themselves."""
        return self._closed

    @property
    def ended(self) -> bool:
        """Whether no more tokens are wanted: a stop string or the last token has come."""
        return self._finish is not None

    @property
    def finish(self) -> Finish | None:
        """Why the text ended; None while pieces of it are to come."""
        return None if self._pieces else self._finish

    @property
    def gap(self) -> bool:
        """Whether tokens have come behind one that is missing."""
        return bool(self._ahead)

    @property
    def usage(self) -> Usage:
        """Tokens of the prompt, and those of the answer so far."""
        return Usage(len(self.prompt), len(self.emitted))

    def pieces(self) -> list[Piece]:
        """What the tokens since the last call add."""
        pieces, self._pieces = self._pieces, []
        return pieces

    def _grow(self) -> None:
        while not self.ended and (token := self._ahead.pop(len(self.emitted), None)):
            self.emitted.append(token)
            self._closed = token.finish is not None
            self._pieces.append(self._piece(token))

    def _piece(self, token: Token) -> Piece:
        # A token that stops is not text of the answer, unless that was asked for.
        is_hidden = token.finish == "stop" and not self._stops.are_shown
        text = "" if is_hidden else self._detokenizer.push(token.id)
        if token.finish is not None:
            text += self._detokenizer.flush()
        text, stopped = self._judge(token.index, text)
        if stopped:
            self._finish = "stop"
        elif token.finish is not None:
            self._finish = token.finish
            text += self._stops.flush()
        return Piece(token, text, self._finish)

    def _judge(self, index: int, text: str) -> tuple[str, bool]:
        if index + 1 < self._ending.min_tokens:
            return text, False
        return self._stops.push(text)
