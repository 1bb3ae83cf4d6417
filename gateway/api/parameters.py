"""Parameters that this server knows but does not serve, and what it does with unknown ones.

A known parameter is refused unless it carries the value that changes nothing, because serving
the request without it would silently answer another question. Unknown fields are ignored and
named, as clients send many of their own.
"""

import re

import msgspec

from gateway.errors import invalid

MAX_NAMED = 32
"""Ignored fields that are named to the client."""
_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")

Neutral = bool | int | float | str | list[str] | dict[str, str]

HARMLESS = frozenset(
    {"user", "priority", "cache_salt", "kv_transfer_params", "request_id", "session_id"}
)
"""Hints that change nothing in an answer."""

_NEUTRAL: dict[str, tuple[Neutral, ...]] = {
    "echo": (False,),
    "suffix": ("",),
    "length_penalty": (1,),
    "use_beam_search": (False,),
    "response_format": ({"type": "text"},),
    "structured_outputs": (),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "modalities": (["text"],),
    "audio": (),
    "prompt_embeds": (),
    "add_generation_prompt": (True, False),
    "continue_final_message": (False,),
}

_REFUSED = ("chat_template", "guided_")
"""Beginnings of names that are never served."""


def examine(fields: dict[str, msgspec.Raw], served: frozenset[str]) -> tuple[tuple[str, ...], int]:
    """The names of the ignored fields of a request, as far as a header can hold them; all counted.

    Raises:
        Refusal: a field would change the answer and is not served.
    """
    names = fields.keys() - served - HARMLESS
    known = {name for name in names if name in _NEUTRAL or name.startswith(_REFUSED)}
    for name in sorted(known):
        if not _is_neutral(fields[name], _NEUTRAL.get(name, ())):
            raise invalid(f"The value of '{name[:64]}' is not supported by this server.", name[:64])
    ignored = sorted(names - known)
    return tuple(name for name in ignored if _NAME.fullmatch(name))[:MAX_NAMED], len(ignored)


def _is_neutral(raw: msgspec.Raw, values: tuple[Neutral, ...]) -> bool:
    value = msgspec.json.decode(raw)
    return value is None or any(
        value == neutral and isinstance(value, bool) == isinstance(neutral, bool)
        for neutral in values
    )
