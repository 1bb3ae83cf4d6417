"""What clients send: the request shapes of the OpenAI API, checked and made one `Request`.

The JSON decoder judges types and ranges, so that its error path names the parameter. Every
field may be null, which means absent.
"""

import re
import secrets
from typing import Annotated, Literal, TypeVar

import msgspec
from msgspec import Meta, Struct

from common.messages import Sampling
from gateway.errors import Refusal, context_length, invalid
from gateway.parameters import examine

MAX_FIELDS = 256
MAX_REASON = 512
"""Characters."""
DEFAULT_COMPLETION = 16
"""Tokens of a completion that names no `max_tokens`."""

Tokens = Annotated[int, Meta(ge=1, le=2**31 - 1)]
TokenId = Annotated[int, Meta(ge=0, le=2**31 - 1)]
StopText = Annotated[str, Meta(max_length=256)]
Stops = StopText | Annotated[list[StopText], Meta(max_length=4)]


class StreamOptions(Struct, frozen=True):
    """What a stream tells beside text."""

    include_usage: bool | None = None
    continuous_usage_stats: bool | None = None


class TextPart(Struct, frozen=True):
    """One part of a message's content; only text is served."""

    type: Literal["text"]
    text: str


class ChatMessage(Struct, frozen=True):
    """One message of a conversation."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[TextPart]

    def text(self) -> str:
        """The content as one string."""
        if isinstance(self.content, str):
            return self.content
        return "".join(part.text for part in self.content)


class Common(Struct, frozen=True, kw_only=True):
    """Parameters that both routes take."""

    model: str | None = None
    max_tokens: Tokens | None = None
    temperature: Annotated[float, Meta(ge=0, le=100)] | None = None
    top_p: Annotated[float, Meta(gt=0, le=1)] | None = None
    top_k: Annotated[int, Meta(ge=-1, le=2**31 - 1)] | None = None
    min_p: Annotated[float, Meta(ge=0, le=1)] | None = None
    seed: Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)] | None = None
    stop: Stops | None = None
    stop_token_ids: Annotated[list[TokenId], Meta(max_length=64)] | None = None
    ignore_eos: bool | None = None
    min_tokens: Annotated[int, Meta(ge=0, le=2**31 - 1)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    timeout: Annotated[float, Meta(gt=0)] | None = None
    """Seconds until the request ends with 504; an extension, at most what the server allows."""


class CompletionBody(Common, frozen=True, kw_only=True):
    """Body of `/v1/completions`."""

    prompt: str | list[str | TokenId | list[TokenId]] | None = None
    logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None


class ChatBody(Common, frozen=True, kw_only=True):
    """Body of `/v1/chat/completions`."""

    messages: list[ChatMessage] | None = None
    max_completion_tokens: Tokens | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None


Body = TypeVar("Body", CompletionBody, ChatBody)
Prompt = str | list[int] | list[ChatMessage]


class Request(Struct, frozen=True, kw_only=True):
    """A request whose parameters are all valid and settled; the prompt is not tokenised yet."""

    prompt: Prompt
    model: str
    max_tokens: int | None
    """What the client named, if anything."""
    sampling: Sampling
    min_tokens: int
    ignore_eos: bool
    stop_token_ids: tuple[int, ...]
    stops: tuple[str, ...]
    stream: bool
    include_usage: bool
    continuous_usage: bool
    timeout: float | None
    """Seconds."""
    ignored: tuple[str, ...]

    @property
    def param(self) -> str:
        """The parameter that holds the prompt."""
        return "messages" if self.chat else "prompt"

    @property
    def chat(self) -> bool:
        """Whether this is a conversation."""
        return isinstance(self.prompt, list) and isinstance(self.prompt[0], ChatMessage)

    def patience(self, limit: float) -> float:
        """Seconds that it may take, of `limit`.

        Raises:
            Refusal: the client wants to wait longer.
        """
        if self.timeout is not None and self.timeout > limit:
            raise invalid(f"'timeout' must not exceed {limit:g} seconds.", "timeout")
        return limit if self.timeout is None else self.timeout

    def budget(self, num_prompt: int, limit: int) -> int:
        """Tokens that may be emitted after `num_prompt` of a context of `limit`.

        A default shrinks to what fits, a number that the client named does not.

        Raises:
            Refusal: prompt and completion do not fit the context.
        """
        room = max(1, limit - num_prompt)
        default = room if self.chat else min(DEFAULT_COMPLETION, room)
        wanted = default if self.max_tokens is None else self.max_tokens
        if num_prompt + wanted > limit:
            raise context_length(limit, num_prompt, wanted, self.param)
        if self.min_tokens > wanted:
            raise invalid(f"'min_tokens' exceeds the {wanted} tokens to come.", "min_tokens")
        return wanted


def parse_completion(raw: bytes) -> Request:
    """The request in a body of `/v1/completions`; raises Refusal."""
    body, ignored = _decode(raw, CompletionBody)
    logprobs = -1 if body.logprobs is None else body.logprobs
    return _request(body, _prompt(body), body.max_tokens, logprobs, ignored)


def parse_chat(raw: bytes) -> Request:
    """The request in a body of `/v1/chat/completions`; raises Refusal."""
    body, ignored = _decode(raw, ChatBody)
    if not body.messages:
        raise invalid("'messages' must hold at least one message.", "messages")
    if body.top_logprobs is not None and not body.logprobs:
        raise invalid("'top_logprobs' needs 'logprobs' to be true.", "top_logprobs")
    limit = body.max_completion_tokens or body.max_tokens
    logprobs = (body.top_logprobs or 0) if body.logprobs else -1
    return _request(body, body.messages, limit, logprobs, ignored)


def _request(
    body: CompletionBody | ChatBody,
    prompt: Prompt,
    max_tokens: int | None,
    logprobs: int,
    ignored: tuple[str, ...],
) -> Request:
    options = body.stream_options or StreamOptions()
    if body.stream_options is not None and not body.stream:
        raise invalid("'stream_options' needs 'stream' to be true.", "stream_options")
    if not body.model:
        raise invalid("'model' is missing.", "model")
    return Request(
        prompt=prompt,
        model=body.model,
        max_tokens=max_tokens,
        sampling=_sampling(body, logprobs),
        min_tokens=body.min_tokens or 0,
        ignore_eos=bool(body.ignore_eos),
        stop_token_ids=tuple(body.stop_token_ids or ()),
        stops=_stops(body.stop),
        stream=bool(body.stream),
        include_usage=bool(options.include_usage),
        continuous_usage=bool(options.continuous_usage_stats),
        timeout=body.timeout,
        ignored=ignored,
    )


def _sampling(body: Common, logprobs: int) -> Sampling:
    seed = secrets.randbits(63) if body.seed is None else body.seed % 2**63
    return Sampling(
        temperature=1.0 if body.temperature is None else body.temperature,
        top_p=1.0 if body.top_p is None else body.top_p,
        top_k=max(0, body.top_k or 0),
        min_p=body.min_p or 0.0,
        seed=seed,
        logprobs=logprobs,
    )


def _stops(stop: str | list[str] | None) -> tuple[str, ...]:
    texts = (stop,) if isinstance(stop, str) else tuple(stop or ())
    if "" in texts:
        raise invalid("'stop' must not hold an empty string.", "stop")
    return texts


def _prompt(body: CompletionBody) -> str | list[int]:
    prompt = body.prompt
    if isinstance(prompt, list) and len(prompt) == 1 and not isinstance(prompt[0], int):
        prompt = prompt[0]  # type: ignore[assignment]  # a list of one prompt is that prompt
    if not prompt:
        raise invalid("'prompt' is missing or empty.", "prompt")
    if isinstance(prompt, str):
        return prompt
    ids = [token for token in prompt if isinstance(token, int)]
    if len(ids) != len(prompt):
        raise invalid("'prompt' must be one string or one list of token ids.", "prompt")
    return ids


# Decoding

_PATH = re.compile(r"at `\$\.(\w+)")
_MISSING = re.compile(r"required field `(\w+)` - at `\$`")
_NOT_A_NUMBER = re.compile(rb'"(\w{1,64})"\s*:\s*-?(?:NaN|Infinity)\b')
_Fields = Annotated[dict[str, msgspec.Raw], Meta(max_length=MAX_FIELDS)]


def _decode(raw: bytes, shape: type[Body]) -> tuple[Body, tuple[str, ...]]:
    served = frozenset(shape.__struct_fields__)
    try:
        raw.decode()
        ignored = examine(msgspec.json.decode(raw, type=_Fields), served)
        return msgspec.json.decode(raw, type=shape), ignored
    except UnicodeDecodeError as error:
        raise invalid("The body is not valid UTF-8.") from error
    except RecursionError as error:
        raise invalid("The body is nested too deeply.") from error
    except msgspec.ValidationError as error:
        raise _wrong_value(str(error)) from error
    except msgspec.DecodeError as error:
        raise _broken_json(raw, str(error)) from error


def _wrong_value(reason: str) -> Refusal:
    match = _PATH.search(reason) or _MISSING.search(reason)
    # It may quote what the client sent.
    return invalid(f"Invalid request: {reason[:MAX_REASON]}.", match.group(1) if match else None)


def _broken_json(raw: bytes, reason: str) -> Refusal:
    match = _NOT_A_NUMBER.search(raw)
    if match is not None:
        name = match.group(1).decode()
        return invalid(f"'{name}' must be a finite number.", name)
    return invalid(f"The body is not valid JSON: {reason}.")
