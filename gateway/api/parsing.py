"""The JSON of a request's body into its shape, and what is wrong with it in words."""

import re
from typing import Annotated, TypeVar

import msgspec
from msgspec import Meta, Struct

from gateway.api.parameters import examine
from gateway.errors import Refusal, invalid

MAX_FIELDS = 256
MAX_REASON = 512
"""Characters."""
_PATH = re.compile(r"`\$\.(\w+)")
_MISSING = re.compile(r"required field `(\w+)` - at `\$`")
_NOT_A_NUMBER = re.compile(rb'"(\w{1,64})"\s*:\s*-?(?:NaN|Infinity)\b')
_Fields = Annotated[dict[str, msgspec.Raw], Meta(max_length=MAX_FIELDS)]
Body = TypeVar("Body", bound=Struct)


def decode(raw: bytes, shape: type[Body]) -> tuple[Body, tuple[tuple[str, ...], int]]:
    """A body, and which of its fields are ignored: names that a header can hold, and how many.

    Raises:
        Refusal: it is not JSON of this shape, or a field is not served.
    """
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
