"""What clients get back: the answer shapes of the OpenAI API, whole or as chunks of a stream."""

from collections.abc import Callable, Sequence
from typing import Literal, Protocol

import msgspec
from msgspec import UNSET, Struct, UnsetType, field

from common.messages import Alternative, Finish
from gateway.streams import Piece, Usage

Text = Callable[[int], str]
"""The text of one token id alone."""


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
    """The one choice of a completion."""

    text: str
    logprobs: TextLogprobs | None
    finish_reason: Finish | None
    index: int = 0


class ChatMessageBody(Struct, frozen=True):
    """The assistant's message, or the part of it that a chunk adds."""

    role: Literal["assistant"] | UnsetType = UNSET
    content: str = ""


class DeltaChoice(Struct, frozen=True):
    """The one choice of a chat chunk."""

    delta: ChatMessageBody
    logprobs: ChatLogprobs | None = None
    finish_reason: Finish | None = None
    index: int = 0


class MessageChoice(Struct, frozen=True):
    """The one choice of a whole chat answer."""

    message: ChatMessageBody
    logprobs: ChatLogprobs | None
    finish_reason: Finish | None
    index: int = 0


class Answer(Struct, frozen=True):
    """Envelope of every answer and chunk."""

    id: str
    object: Literal["text_completion", "chat.completion", "chat.completion.chunk"]
    created: int
    model: str
    choices: list[TextChoice] | list[DeltaChoice] | list[MessageChoice] = field(
        default_factory=list
    )
    usage: UsageBody | UnsetType = UNSET

    def json(self) -> bytes:
        """The answer as it is sent."""
        return msgspec.json.encode(self)


class Format(Protocol):
    """One route's answers."""

    def opening(self) -> list[Answer]:
        """Chunks that come before the first token."""

    def chunk(self, piece: Piece, usage: Usage | None) -> Answer:
        """One token's chunk; with the running usage when that was asked for."""

    def closing(self, usage: Usage) -> Answer:
        """The chunk without choices that tells the usage."""

    def whole(self, pieces: Sequence[Piece], usage: Usage) -> Answer:
        """The answer to a request that does not stream."""


class Completion:
    """Answers of `/v1/completions`."""

    def __init__(self, name: str, created: int, model: str, text: Text) -> None:
        self._envelope = Answer(name, "text_completion", created, model)
        self._text = text
        self._offset = 0

    def opening(self) -> list[Answer]:
        """Nothing."""
        return []

    def chunk(self, piece: Piece, usage: Usage | None) -> Answer:
        """The token's text."""
        choice = TextChoice(piece.text, self._logprobs([piece]), piece.finish)
        return _fill(self._envelope, [choice], usage)

    def closing(self, usage: Usage) -> Answer:
        """The usage."""
        return _fill(self._envelope, [], usage)

    def whole(self, pieces: Sequence[Piece], usage: Usage) -> Answer:
        """All text at once."""
        text = "".join(piece.text for piece in pieces)
        choice = TextChoice(text, self._logprobs(pieces), pieces[-1].finish)
        return _fill(self._envelope, [choice], usage)

    def _logprobs(self, pieces: Sequence[Piece]) -> TextLogprobs | None:
        if pieces[0].token.logprob is None:
            return None
        tokens = [self._text(piece.token.id) for piece in pieces]
        offsets = []
        for token in tokens:
            offsets.append(self._offset)
            self._offset += len(token)
        return TextLogprobs(
            tokens,
            [piece.token.logprob for piece in pieces],
            [self._top(piece) for piece in pieces],
            offsets,
        )

    def _top(self, piece: Piece) -> dict[str, float] | None:
        return {self._text(top.id): top.logprob for top in piece.token.top} or None


class Chat:
    """Answers of `/v1/chat/completions`."""

    def __init__(self, name: str, created: int, model: str, text: Text) -> None:
        self._envelope = Answer(name, "chat.completion", created, model)
        self._text = text

    def opening(self) -> list[Answer]:
        """The role, without text: benchmarks take the next chunk for the first token."""
        return [self._chunk([DeltaChoice(ChatMessageBody(role="assistant"))], None)]

    def chunk(self, piece: Piece, usage: Usage | None) -> Answer:
        """The token's text."""
        delta = ChatMessageBody(content=piece.text)
        return self._chunk([DeltaChoice(delta, self._logprobs([piece]), piece.finish)], usage)

    def closing(self, usage: Usage) -> Answer:
        """The usage."""
        return self._chunk([], usage)

    def whole(self, pieces: Sequence[Piece], usage: Usage) -> Answer:
        """The whole message."""
        text = "".join(piece.text for piece in pieces)
        message = ChatMessageBody(role="assistant", content=text)
        choice = MessageChoice(message, self._logprobs(pieces), pieces[-1].finish)
        return _fill(self._envelope, [choice], usage)

    def _chunk(self, choices: list[DeltaChoice], usage: Usage | None) -> Answer:
        answer = _fill(self._envelope, choices, usage)
        return msgspec.structs.replace(answer, object="chat.completion.chunk")

    def _logprobs(self, pieces: Sequence[Piece]) -> ChatLogprobs | None:
        if pieces[0].token.logprob is None:
            return None
        return ChatLogprobs([self._entry(piece) for piece in pieces])

    def _entry(self, piece: Piece) -> ChatEntry:
        token = self._text(piece.token.id)
        top = [self._alternative(entry) for entry in piece.token.top]
        return ChatEntry(token, piece.token.logprob or 0.0, list(token.encode()), top)

    def _alternative(self, entry: Alternative) -> TopEntry:
        token = self._text(entry.id)
        return TopEntry(token, entry.logprob, list(token.encode()))


def _fill(
    envelope: Answer,
    choices: list[TextChoice] | list[DeltaChoice] | list[MessageChoice],
    usage: Usage | None,
) -> Answer:
    body = UNSET if usage is None else UsageBody.of(usage)
    return msgspec.structs.replace(envelope, choices=choices, usage=body)
