"""What clients send: the request shapes of the OpenAI API, checked and made one `Request`.

The JSON decoder judges types and ranges, so that its error path names the parameter. Every
field may be null, which means absent.
"""

from collections.abc import Sequence
from typing import Annotated, Literal, cast

from msgspec import Meta, Struct

from common.messages import MAX_BIASES, Bias, Sampling
from gateway.api.parsing import decode
from gateway.api.request import (
    MAX_CHOICES,
    MAX_PROMPTS,
    ChatMessage,
    Encoding,
    Prompt,
    Request,
    Shown,
)
from gateway.errors import invalid

Tokens = Annotated[int, Meta(ge=0, le=2**31 - 1)]
TokenId = Annotated[int, Meta(ge=0, le=2**31 - 1)]
StopText = Annotated[str, Meta(max_length=256)]
Stops = StopText | Annotated[list[StopText], Meta(max_length=4)]
Penalty = Annotated[float, Meta(ge=-2, le=2)]
Alternatives = Annotated[int, Meta(ge=0, le=20)]
Biases = Annotated[
    dict[TokenId, Annotated[float, Meta(ge=-100, le=100)]], Meta(max_length=MAX_BIASES)
]


class StreamOptions(Struct, frozen=True):
    """What a stream tells beside text."""

    include_usage: bool | None = None
    continuous_usage_stats: bool | None = None


class Common(Struct, frozen=True, kw_only=True):
    """Parameters that both routes take."""

    model: str | None = None
    max_tokens: Tokens | None = None
    n: Annotated[int, Meta(ge=1, le=MAX_CHOICES)] | None = None
    best_of: int | None = None
    temperature: Annotated[float, Meta(ge=0, le=100)] | None = None
    top_p: Annotated[float, Meta(gt=0, le=1)] | None = None
    top_k: Annotated[int, Meta(ge=-1, le=2**31 - 1)] | None = None
    min_p: Annotated[float, Meta(ge=0, le=1)] | None = None
    seed: Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)] | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    repetition_penalty: Annotated[float, Meta(gt=0, le=100)] | None = None
    logit_bias: Biases | None = None
    stop: Stops | None = None
    stop_token_ids: Annotated[list[TokenId], Meta(max_length=64)] | None = None
    include_stop_str_in_output: bool | None = None
    ignore_eos: bool | None = None
    min_tokens: Annotated[int, Meta(ge=0, le=2**31 - 1)] | None = None
    skip_special_tokens: bool | None = None
    spaces_between_special_tokens: bool | None = None
    """Either way: the tokenizers served here put no spaces there of their own."""
    add_special_tokens: bool | None = None
    truncate_prompt_tokens: Annotated[int, Meta(ge=-1, le=2**31 - 1)] | None = None
    prompt_logprobs: Alternatives | None = None
    return_token_ids: bool | None = None
    return_tokens_as_token_ids: bool | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    timeout: Annotated[float, Meta(gt=0)] | None = None
    """Seconds until the request ends with 504; an extension, at most what the server allows."""


class CompletionBody(Common, frozen=True, kw_only=True):
    """Body of `/v1/completions`."""

    prompt: str | list[str | TokenId | list[TokenId]] | None = None
    echo: bool | None = None
    logprobs: Alternatives | None = None


class ChatBody(Common, frozen=True, kw_only=True):
    """Body of `/v1/chat/completions`."""

    messages: list[ChatMessage] | None = None
    max_completion_tokens: Tokens | None = None
    logprobs: bool | None = None
    top_logprobs: Alternatives | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None


class Wanted(Struct, frozen=True):
    """What the two routes say differently."""

    prompts: tuple[Prompt, ...]
    max_tokens: int | None
    max_name: Literal["max_tokens", "max_completion_tokens"]
    logprobs: int
    encoding: Encoding
    echo: bool = False


def parse_completion(raw: bytes) -> Request:
    """The request in a body of `/v1/completions`; raises Refusal."""
    body, ignored = decode(raw, CompletionBody)
    logprobs = -1 if body.logprobs is None else body.logprobs
    encoding = Encoding(add_special_tokens=body.add_special_tokens is not False)
    prompts = _prompts(body.prompt)
    wanted = Wanted(
        prompts, body.max_tokens, "max_tokens", logprobs, encoding, echo=bool(body.echo)
    )
    return _request(body, wanted, ignored)


def parse_chat(raw: bytes) -> Request:
    """The request in a body of `/v1/chat/completions`; raises Refusal."""
    body, ignored = decode(raw, ChatBody)
    if not body.messages:
        raise invalid("'messages' must hold at least one message.", "messages")
    if body.top_logprobs is not None and not body.logprobs:
        raise invalid("'top_logprobs' needs 'logprobs' to be true.", "top_logprobs")
    logprobs = (body.top_logprobs or 0) if body.logprobs else -1
    prompts, encoding = (body.messages,), _chat_encoding(body)
    if body.max_completion_tokens is None:
        wanted = Wanted(prompts, body.max_tokens, "max_tokens", logprobs, encoding)
    else:
        limit = body.max_completion_tokens
        wanted = Wanted(prompts, limit, "max_completion_tokens", logprobs, encoding)
    return _request(body, wanted, ignored)


def _chat_encoding(body: ChatBody) -> Encoding:
    continues = bool(body.continue_final_message)
    if continues and body.add_generation_prompt:
        reason = "'continue_final_message' and 'add_generation_prompt' exclude each other."
        raise invalid(reason, "continue_final_message")
    return Encoding(
        add_special_tokens=bool(body.add_special_tokens),
        add_generation_prompt=body.add_generation_prompt is not False and not continues,
        continue_final_message=continues,
    )


def _request(
    body: CompletionBody | ChatBody, wanted: Wanted, ignored: tuple[tuple[str, ...], int]
) -> Request:
    options = body.stream_options or StreamOptions()
    n = body.n or 1
    _check_together(body, wanted, n)
    return Request(
        prompts=wanted.prompts,
        n=n,
        model=body.model or "",
        max_tokens=wanted.max_tokens,
        sampling=_sampling(body, wanted.logprobs),
        has_seed=body.seed is not None,
        min_tokens=body.min_tokens or 0,
        ignore_eos=bool(body.ignore_eos),
        stop_token_ids=tuple(body.stop_token_ids or ()),
        stops=_stops(body.stop),
        show_stops=bool(body.include_stop_str_in_output),
        skip_special=body.skip_special_tokens is not False,
        encoding=wanted.encoding,
        truncate=body.truncate_prompt_tokens,
        shown=_shown(body, wanted),
        stream=bool(body.stream),
        include_usage=bool(options.include_usage),
        continuous_usage=bool(options.continuous_usage_stats),
        timeout=body.timeout,
        ignored=ignored[0],
        num_ignored=ignored[1],
    )


def _check_together(body: CompletionBody | ChatBody, wanted: Wanted, n: int) -> None:
    """Refuse what is right by itself but not beside the rest."""
    if body.stream_options is not None and not body.stream:
        raise invalid("'stream_options' needs 'stream' to be true.", "stream_options")
    if body.stream and body.prompt_logprobs is not None:
        raise invalid("'prompt_logprobs' cannot be streamed.", "prompt_logprobs")
    if not body.model:
        raise invalid("'model' is missing.", "model")
    if body.best_of not in (None, n):
        raise invalid("'best_of' must equal 'n'.", "best_of")
    if body.truncate_prompt_tokens == 0:
        raise invalid(
            "'truncate_prompt_tokens' must be -1 or at least 1.", "truncate_prompt_tokens"
        )
    if wanted.max_tokens == 0 and not wanted.echo:
        name = wanted.max_name
        raise invalid(f"'{name}' must be at least 1, unless the prompt is echoed.", name)


def _shown(body: CompletionBody | ChatBody, wanted: Wanted) -> Shown:
    return Shown(
        echo=wanted.echo,
        only_prompt=wanted.max_tokens == 0,
        logprobs=wanted.logprobs,
        prompt_logprobs=-1 if body.prompt_logprobs is None else body.prompt_logprobs,
        token_ids=bool(body.return_token_ids),
        ids_for_tokens=bool(body.return_tokens_as_token_ids),
    )


def _sampling(body: Common, logprobs: int) -> Sampling:
    repetition = body.repetition_penalty
    return Sampling(
        temperature=1.0 if body.temperature is None else body.temperature,
        top_p=1.0 if body.top_p is None else body.top_p,
        top_k=max(0, body.top_k or 0),
        min_p=body.min_p or 0.0,
        seed=(body.seed or 0) % 2**63,
        logprobs=logprobs,
        presence_penalty=body.presence_penalty or 0.0,
        frequency_penalty=body.frequency_penalty or 0.0,
        repetition_penalty=1.0 if repetition is None else repetition,
        biases=tuple(Bias(token, value) for token, value in (body.logit_bias or {}).items()),
    )


def _stops(stop: str | list[str] | None) -> tuple[str, ...]:
    texts = (stop,) if isinstance(stop, str) else tuple(stop or ())
    if "" in texts:
        raise invalid("'stop' must not hold an empty string.", "stop")
    return texts


def _prompts(prompt: str | Sequence[str | int | list[int]] | None) -> tuple[Prompt, ...]:
    if not prompt:
        raise invalid("'prompt' is missing or empty.", "prompt")
    if isinstance(prompt, str):
        return (prompt,)
    kinds = {type(one) for one in prompt}
    if len(kinds) > 1:
        raise invalid("'prompt' must hold either strings, ids or lists of ids.", "prompt")
    if kinds == {int}:
        return (cast(list[int], prompt),)
    if len(prompt) > MAX_PROMPTS:
        raise invalid(f"'prompt' holds more than {MAX_PROMPTS} prompts.", "prompt")
    if not all(prompt):
        raise invalid("'prompt' holds an empty prompt.", "prompt")
    return tuple(cast(Sequence[Prompt], prompt))
