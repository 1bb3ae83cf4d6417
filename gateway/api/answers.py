"""The answer shapes of the OpenAI API; what only some clients ask for is left out for others."""

from typing import Literal

import msgspec
from msgspec import UNSET, Struct, UnsetType

from common.messages import Finish
from gateway.api.timing import Metrics
from gateway.mesh.streams import Usage


class PromptDetails(Struct, frozen=True):
    """Where prompt tokens came from; nothing is cached between requests yet."""

    cached_tokens: int = 0


class UsageBody(Struct, frozen=True):
    """Tokens of one request."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptDetails = PromptDetails()

    @classmethod
    def of(cls, usage: Usage) -> "UsageBody":
        """The API's form of a stream's usage."""
        return cls(usage.prompt, usage.completion, usage.prompt + usage.completion)


class PromptEntry(Struct, frozen=True):
    """What is known of one token at one position of a prompt."""

    logprob: float
    rank: int | None
    """1 for the likeliest; None for a token that is not among the reported alternatives."""
    decoded_token: str


PromptLogprobs = list[dict[int, PromptEntry] | None]


class TextLogprobs(Struct, frozen=True):
    """Log probabilities of a completion, in the API's older form."""

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None]
    text_offset: list[int]


class TopEntry(Struct, frozen=True):
    """One alternative of a chat token."""

    token: str
    logprob: float
    bytes: list[int]


class ChatEntry(Struct, frozen=True):
    """One chat token with its alternatives."""

    token: str
    logprob: float
    bytes: list[int]
    top_logprobs: list[TopEntry]


class ChatLogprobs(Struct, frozen=True):
    """Log probabilities of a chat answer."""

    content: list[ChatEntry]


class TextChoice(Struct, frozen=True):
    """One choice of a completion, or what a chunk adds to it."""

    text: str
    logprobs: TextLogprobs | None
    finish_reason: Finish | None
    index: int
    token_ids: list[int] | UnsetType = UNSET
    prompt_token_ids: list[int] | UnsetType = UNSET
    prompt_logprobs: PromptLogprobs | UnsetType = UNSET


class ChatMessageBody(Struct, frozen=True):
    """The assistant's message, or the part of it that a chunk adds."""

    role: Literal["assistant"] | UnsetType = UNSET
    content: str = ""


class DeltaChoice(Struct, frozen=True):
    """What a chunk adds to one choice of a chat."""

    delta: ChatMessageBody
    logprobs: ChatLogprobs | None = None
    finish_reason: Finish | None = None
    index: int = 0
    token_ids: list[int] | UnsetType = UNSET


class MessageChoice(Struct, frozen=True):
    """One choice of a whole chat answer."""

    message: ChatMessageBody
    logprobs: ChatLogprobs | None
    finish_reason: Finish | None
    index: int = 0
    token_ids: list[int] | UnsetType = UNSET


class Answer(Struct, frozen=True):
    """Envelope of every answer and chunk."""

    id: str
    object: Literal["text_completion", "chat.completion", "chat.completion.chunk"]
    created: int
    model: str
    choices: list[TextChoice] | list[DeltaChoice] | list[MessageChoice]
    usage: UsageBody | UnsetType = UNSET
    metrics: Metrics | UnsetType = UNSET
    prompt_token_ids: list[int] | UnsetType = UNSET
    prompt_logprobs: PromptLogprobs | UnsetType = UNSET

    def json(self) -> bytes:
        """The answer as it is sent."""
        return msgspec.json.encode(self)
