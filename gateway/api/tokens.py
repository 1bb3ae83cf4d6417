"""`/tokenize` and `/detokenize`: text to ids and back without generating anything."""

import asyncio
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Annotated

import msgspec
from aiohttp import web
from msgspec import Meta, Struct

from common.messages import ModelCard
from gateway.api.request import ChatMessage, Encoding
from gateway.api.tokenizer import Tokenizer
from gateway.doors.bodies import JSON, decoded, read_json
from gateway.errors import Refusal, invalid

MAX_TEXT = 1 << 20
"""Characters of a text; tokenising one takes about a second, beside prompts of others."""
MAX_IDS = 1 << 18

Text = Annotated[str, Meta(max_length=MAX_TEXT)]
Id = Annotated[int, Meta(ge=0, le=2**31 - 1)]
Never = Annotated[bool | None, Meta(extra_json_schema={"enum": [False, None]})]
"""What is known and not served: true is refused."""


class TextBody(Struct, frozen=True, kw_only=True):
    """Body of `POST /tokenize` for a text."""

    prompt: Text
    model: str | None = None
    add_special_tokens: bool | None = None
    """Whether the tokenizer adds what begins a prompt; true when absent."""
    return_token_strs: bool | None = None


class MessagesBody(Struct, frozen=True, kw_only=True):
    """Body of `POST /tokenize` for a conversation."""

    messages: Annotated[list[ChatMessage], Meta(min_length=1, max_length=4096)]
    model: str | None = None
    add_special_tokens: bool | None = None
    """Whether the tokenizer adds to what the template has written; false when absent."""
    add_generation_prompt: bool | None = None
    """Whether the assistant's turn is begun; true when absent."""
    return_token_strs: bool | None = None
    continue_final_message: Never = None
    chat_template: None = None
    chat_template_kwargs: None = None
    tools: None = None

    def encoding(self) -> Encoding:
        """How it becomes ids.

        Raises:
            Refusal: it is too long, or wants what is not served.
        """
        if self.continue_final_message:
            raise invalid("'continue_final_message' is not supported.", "continue_final_message")
        if sum(len(message.text()) for message in self.messages) > MAX_TEXT:
            raise invalid(f"'messages' hold more than {MAX_TEXT} characters.", "messages")
        return Encoding(
            add_special_tokens=self.add_special_tokens,
            add_generation_prompt=self.add_generation_prompt is not False,
        )


class IdsBody(Struct, frozen=True, kw_only=True):
    """Body of `POST /detokenize`."""

    tokens: Annotated[list[Id], Meta(max_length=MAX_IDS)]
    model: str | None = None


class Tokenized(Struct, frozen=True):
    """Answer of `POST /tokenize`."""

    count: int
    max_model_len: int
    tokens: list[int]
    token_strs: list[str] | None = None


class Detokenized(Struct, frozen=True):
    """Answer of `POST /detokenize`."""

    prompt: str


class _Kind(Struct, frozen=True):
    """Which body of `POST /tokenize` it is; nothing inside is decoded yet."""

    prompt: msgspec.Raw = msgspec.Raw(b"null")
    messages: msgspec.Raw = msgspec.Raw(b"null")

    @property
    def is_text(self) -> bool:
        # Without either, the prompt is what is missing.
        return bytes(self.messages) == b"null" or bytes(self.prompt) != b"null"


class Tokens(Struct, frozen=True):
    """The two routes.

    One text at a time, so that half of the tokenizer's threads are left for generation.
    """

    card: ModelCard
    tokenizer: Tokenizer
    place: Callable[[], AbstractContextManager[float]]
    """Takes a place among the requests being served."""
    turn: asyncio.Semaphore

    async def tokenize(self, http: web.Request) -> web.Response:
        """`POST /tokenize`."""
        with self.place():
            raw = await read_json(http)
            body: TextBody | MessagesBody
            if decoded(raw, _Kind).is_text:
                body = decoded(raw, TextBody)
            else:
                body = decoded(raw, MessagesBody)
            self._check(body.model)
            async with self.turn:
                return _json(await self._tokenized(body))

    async def detokenize(self, http: web.Request) -> web.Response:
        """`POST /detokenize`; special tokens are written out."""
        with self.place():
            body = decoded(await read_json(http), IdsBody)
            self._check(body.model)
            size = self.tokenizer.size
            if max(body.tokens, default=0) >= size:
                raise invalid(f"'tokens' holds an id that is not below {size}.", "tokens")
            async with self.turn:
                decode = self.tokenizer.decode
                text = await self.tokenizer.run(lambda: decode(body.tokens, skip=False))
                return _json(Detokenized(text))

    async def _tokenized(self, body: TextBody | MessagesBody) -> Tokenized:
        tokenizer = self.tokenizer
        if isinstance(body, TextBody):
            text, special = body.prompt, body.add_special_tokens is not False
            ids = await tokenizer.run(lambda: tokenizer.ids(text, special=special))
        else:
            ids = list(await tokenizer.encode(body.messages, body.encoding()))
        names = None
        if body.return_token_strs:
            names = await tokenizer.run(lambda: tokenizer.names(ids))
        return Tokenized(len(ids), self.card.max_model_len, ids, names)

    def _check(self, model: str | None) -> None:
        if model is not None and model != self.card.name:
            message = f"The model '{model[:256]}' does not exist."
            raise Refusal(404, message, "model", "model_not_found")


def _json(body: Struct) -> web.Response:
    return web.Response(body=msgspec.json.encode(body), content_type=JSON)
