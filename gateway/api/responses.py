"""What clients get back: the answers of both routes, whole or as chunks of a stream."""

from collections.abc import Sequence
from typing import Protocol

from msgspec import UNSET, Struct, UnsetType

from common.messages import Finish
from gateway.api.answers import (
    Answer,
    ChatLogprobs,
    ChatMessageBody,
    DeltaChoice,
    MessageChoice,
    PromptLogprobs,
    TextChoice,
    TextLogprobs,
    UsageBody,
)
from gateway.api.logprobs import TextLog, chat_log, joined, prompt_log
from gateway.api.names import Names, Text
from gateway.api.request import Request, Shown
from gateway.api.sources import Source
from gateway.api.timing import Metrics
from gateway.mesh.streams import Piece, Usage


class Head(Struct, frozen=True):
    """What all chunks of an answer have in common."""

    id: str
    created: int
    model: str


class Format(Protocol):
    """One route's answers; choices are numbered over all prompts."""

    def opening(self, *, usage: bool) -> list[Answer]:
        """Chunks that come before the first token, with the running usage if that is wanted."""

    def chunk(self, index: int, piece: Piece, usage: Usage | None) -> Answer:
        """One token's chunk; with the running usage when that was asked for."""

    def closing(self, usage: Usage, metrics: Metrics) -> Answer:
        """The chunk without choices that tells usage and times."""

    def whole(self, choices: Sequence[Sequence[Piece]], usage: Usage) -> Answer:
        """The answer to a request that does not stream."""


class Completion:
    """Answers of `/v1/completions`."""

    def __init__(self, head: Head, request: Request, sources: Sequence[Source], text: Text) -> None:
        self._head = head
        self._shown = shown = request.shown
        self._names = Names(text, are_ids=shown.ids_for_tokens)
        self._sources = [source for source in sources for _ in range(request.n)]
        self._logs = [TextLog(self._names, shown.logprobs) for _ in self._sources]

    def opening(self, *, usage: bool) -> list[Answer]:
        """The prompt of each choice, if it is echoed."""
        if not self._shown.echo:
            return []
        return [self._echo(index, usage=usage) for index in range(len(self._sources))]

    def chunk(self, index: int, piece: Piece, usage: Usage | None) -> Answer:
        """The token's text."""
        is_first = piece.token.index == 0 and not self._shown.echo
        if self._shown.only_prompt:
            choice = TextChoice("", None, "length", index, _ids(self._shown, []))
        else:
            choice = TextChoice(
                piece.text,
                self._logprobs(index, [piece]),
                piece.finish,
                index,
                _ids(self._shown, [piece]),
                self._prompt_ids(index) if is_first else UNSET,
            )
        return self._answer([choice], usage)

    def closing(self, usage: Usage, metrics: Metrics) -> Answer:
        """Usage and times."""
        return self._answer([], usage, metrics)

    def whole(self, choices: Sequence[Sequence[Piece]], usage: Usage) -> Answer:
        """All text at once."""
        return self._answer([self._whole(*choice) for choice in enumerate(choices)], usage)

    def _whole(self, index: int, pieces: Sequence[Piece]) -> TextChoice:
        shown, source = self._shown, self._sources[index]
        finish: Finish | None = "length" if shown.only_prompt else pieces[-1].finish
        pieces = [] if shown.only_prompt else pieces
        parts = [self._echoed(index), self._logprobs(index, pieces)]
        known = [part for part in parts if part is not None]
        return TextChoice(
            "".join([source.text, *(piece.text for piece in pieces)]),
            joined(known) if known else None,
            finish,
            index,
            _ids(shown, pieces),
            self._prompt_ids(index),
            _prompt_logprobs(shown, source, self._names),
        )

    def _echo(self, index: int, *, usage: bool) -> Answer:
        source = self._sources[index]
        choice = TextChoice(
            source.text,
            self._echoed(index),
            None,
            index,
            _ids(self._shown, []),
            self._prompt_ids(index),
        )
        return self._answer([choice], Usage(len(source.ids), 0) if usage else None)

    def _echoed(self, index: int) -> TextLogprobs | None:
        source = self._sources[index]
        if not self._shown.echo or self._shown.logprobs < 0 or source.scores is None:
            return None
        return self._logs[index].prompt(source.ids, source.scores)

    def _logprobs(self, index: int, pieces: Sequence[Piece]) -> TextLogprobs | None:
        if self._shown.logprobs < 0 or not pieces:
            return None
        return self._logs[index].tokens([piece.token for piece in pieces])

    def _prompt_ids(self, index: int) -> list[int] | UnsetType:
        return list(self._sources[index].ids) if self._shown.token_ids else UNSET

    def _answer(
        self, choices: list[TextChoice], usage: Usage | None, metrics: Metrics | None = None
    ) -> Answer:
        head = self._head
        if usage is not None and self._shown.only_prompt:
            usage = Usage(usage.prompt, 0)
        return Answer(
            head.id,
            "text_completion",
            head.created,
            head.model,
            choices,
            UNSET if usage is None else UsageBody.of(usage),
            UNSET if metrics is None else metrics,
        )


class Chat:
    """Answers of `/v1/chat/completions`."""

    def __init__(self, head: Head, request: Request, sources: Sequence[Source], text: Text) -> None:
        self._head = head
        self._shown = request.shown
        self._names = Names(text, are_ids=request.shown.ids_for_tokens)
        self._source = sources[0]
        self._n = request.n

    def opening(self, *, usage: bool) -> list[Answer]:
        """The role, without text: benchmarks take the next chunk for the first token."""
        known = Usage(len(self._source.ids), 0) if usage else None
        return [self._opening(index, known) for index in range(self._n)]

    def chunk(self, index: int, piece: Piece, usage: Usage | None) -> Answer:
        """The token's text."""
        delta = ChatMessageBody(content=piece.text)
        logprobs, ids = self._logprobs([piece]), _ids(self._shown, [piece])
        return self._chunk([DeltaChoice(delta, logprobs, piece.finish, index, ids)], usage)

    def closing(self, usage: Usage, metrics: Metrics) -> Answer:
        """Usage and times."""
        return self._chunk([], usage, metrics)

    def whole(self, choices: Sequence[Sequence[Piece]], usage: Usage) -> Answer:
        """The whole messages."""
        head = self._head
        return Answer(
            head.id,
            "chat.completion",
            head.created,
            head.model,
            [self._whole(*choice) for choice in enumerate(choices)],
            UsageBody.of(usage),
            UNSET,
            self._prompt_ids(),
            _prompt_logprobs(self._shown, self._source, self._names),
        )

    def _opening(self, index: int, usage: Usage | None) -> Answer:
        role = DeltaChoice(ChatMessageBody(role="assistant"), index=index)
        return self._chunk([role], usage, prompt=self._prompt_ids() if index == 0 else UNSET)

    def _whole(self, index: int, pieces: Sequence[Piece]) -> MessageChoice:
        text = "".join(piece.text for piece in pieces)
        message = ChatMessageBody(role="assistant", content=text)
        ids = _ids(self._shown, pieces)
        return MessageChoice(message, self._logprobs(pieces), pieces[-1].finish, index, ids)

    def _chunk(
        self,
        choices: list[DeltaChoice],
        usage: Usage | None,
        metrics: Metrics | None = None,
        prompt: list[int] | UnsetType = UNSET,
    ) -> Answer:
        head = self._head
        return Answer(
            head.id,
            "chat.completion.chunk",
            head.created,
            head.model,
            choices,
            UNSET if usage is None else UsageBody.of(usage),
            UNSET if metrics is None else metrics,
            prompt,
        )

    def _logprobs(self, pieces: Sequence[Piece]) -> ChatLogprobs | None:
        if self._shown.logprobs < 0:
            return None
        return chat_log(self._names, [piece.token for piece in pieces])

    def _prompt_ids(self) -> list[int] | UnsetType:
        return list(self._source.ids) if self._shown.token_ids else UNSET


def _ids(shown: Shown, pieces: Sequence[Piece]) -> list[int] | UnsetType:
    return [piece.token.id for piece in pieces] if shown.token_ids else UNSET


def _prompt_logprobs(shown: Shown, source: Source, names: Names) -> PromptLogprobs | UnsetType:
    if shown.prompt_logprobs < 0 or source.scores is None:
        return UNSET
    return prompt_log(names, source.ids, source.scores, shown.prompt_logprobs)
