"""One attempt of a request in decode, and how it looks to the engine.

With n tokens emitted, the next step writes the KV of token n - 1 at position
`prompt_length + n - 1` and draws the token of position `prompt_length + n`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from common.generation import Sampled
from common.messages import DecodeJob, Finish, Sampling, Token
from common.pages import Owner, Span, num_slots
from common.past import Past


@dataclass(frozen=True)
class Entry:
    """What the engine needs to draw one request's next token."""

    last: int
    position: int
    """Of `last`, whose KV this step writes; the drawn token stands one further."""
    spans: Sequence[Span]
    """Slots of the tokens up to and including `position`, at least."""
    sampling: Sampling
    forbidden: frozenset[int] = frozenset()
    past: Past | None = None
    """All ids up to and including `last`, where `sampling.looks_back`."""


@dataclass
class Request:
    """One attempt of a request in decode."""

    owner: Owner
    job: DecodeJob
    prompt_length: int
    spans: list[Span]
    tokens: list[Token]
    """Emitted in this attempt and not yet handed out; the first comes with the job."""
    num_emitted: int = 1
    num_shared: int = 0
    """Steps that it shared with others."""
    last: int = 0
    committed: float = 0.0
    """When all its KV had come; wall clock."""
    past: Past | None = None
    """Prompt and emitted ids, where the sampling looks back at them."""
    reason: Finish | None = None

    def take_tokens(self) -> list[Token]:
        """The tokens that nobody was sent yet."""
        tokens, self.tokens = self.tokens, []
        return tokens

    @property
    def position(self) -> int:
        """Of the last token."""
        return self.prompt_length + self.num_emitted - 1

    @property
    def num_left(self) -> int:
        """Tokens whose KV may still have to be written."""
        return max(self.job.ending.max_tokens - self.num_emitted, 1)

    @property
    def needs_room(self) -> bool:
        """Whether the slot of the last token is missing."""
        return self.position >= num_slots(self.spans)

    def emit(self, sampled: Sampled, reason: Finish | None) -> Token:
        """Take the next token, which ends the request when there is a reason."""
        self.num_emitted += 1
        self.last = sampled.id
        self.reason = reason
        if self.past is not None:
            self.past.add(sampled.id)
        token = Token(
            request=self.owner.request,
            attempt=self.owner.attempt,
            index=self.job.first.index + self.num_emitted - 1,
            id=sampled.id,
            logprob=sampled.logprob,
            top=sampled.top,
            finish=reason,
        )
        self.tokens.append(token)
        return token


@dataclass(frozen=True)
class Failure:
    """A request that decode cannot carry on."""

    owner: Owner
    why: str
    retryable: bool = True
    evicted: bool = False
    """Whether it only had to make room."""
