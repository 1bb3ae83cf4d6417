"""Parameters that this server knows but does not serve yet, and what it does with unknown ones.

A known parameter is refused unless it carries the value that changes nothing, because serving
the request without it would silently answer another question. Unknown fields are ignored and
named, as clients send many of their own.
"""

import re

import msgspec

from gateway.errors import Refusal, invalid

MAX_NAMED = 32
"""Ignored fields that are named to the client."""
_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")

Neutral = bool | int | float | str | list[str] | dict[str, str]

HARMLESS = frozenset(
    {"user", "priority", "cache_salt", "kv_transfer_params", "request_id", "session_id"}
)
"""Hints that change nothing in an answer."""

_NEUTRAL: dict[str, tuple[Neutral, ...]] = {
    "n": (1,),
    "best_of": (1,),
    "echo": (False,),
    "suffix": ("",),
    "logit_bias": ({},),
    "presence_penalty": (0,),
    "frequency_penalty": (0,),
    "repetition_penalty": (1,),
    "length_penalty": (1,),
    "use_beam_search": (False,),
    "response_format": ({"type": "text"},),
    "structured_outputs": (),
    "guided_json": (),
    "guided_regex": (),
    "guided_choice": ([],),
    "guided_grammar": (),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "modalities": (["text"],),
    "audio": (),
    "prompt_embeds": (),
    "prompt_logprobs": (),
    "chat_template": (),
    "chat_template_kwargs": ({},),
    "add_special_tokens": (),
    "add_generation_prompt": (True,),
    "continue_final_message": (False,),
    "truncate_prompt_tokens": (),
    "include_stop_str_in_output": (False,),
    "skip_special_tokens": (True,),
    "spaces_between_special_tokens": (True,),
    "return_token_ids": (False,),
    "return_tokens_as_token_ids": (False,),
}


def examine(fields: dict[str, msgspec.Raw], served: frozenset[str]) -> tuple[str, ...]:
    """The names of the ignored fields of a request, as far as a header can hold them.

    Raises:
        Refusal: a field would change the answer and is not served.
    """
    for name in fields.keys() & _NEUTRAL.keys():
        if not _is_neutral(fields[name], _NEUTRAL[name]):
            raise _unsupported(name)
    ignored = sorted(fields.keys() - served - HARMLESS - _NEUTRAL.keys())
    return tuple(name for name in ignored if _NAME.fullmatch(name))[:MAX_NAMED]


def _is_neutral(raw: msgspec.Raw, values: tuple[Neutral, ...]) -> bool:
    value = msgspec.json.decode(raw)
    return value is None or any(
        value == neutral and isinstance(value, bool) == isinstance(neutral, bool)
        for neutral in values
    )


def _unsupported(name: str) -> Refusal:
    return invalid(f"The value of '{name}' is not supported by this server.", name)
