"""What a request's client calls it: the request id and the trace that it is a part of.

The application sets it where a request comes in; whatever the request's own task does later may
ask for it. Both are what a client sent: of bounded length and plain characters, nothing more.
"""

import re
import secrets
from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import dataclass

REQUEST_ID = "x-request-id"
_VALID_ID = re.compile(r"[\x21-\x7e]{1,128}")
_TRACEPARENT = re.compile(r"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")


@dataclass(frozen=True, slots=True)
class Origin:
    """Names that came with a request, or were given to it."""

    request_id: str
    traceparent: str | None = None
    """Of the client's own span, as W3C writes it."""


CURRENT: ContextVar[Origin | None] = ContextVar("origin", default=None)


def origin_of(headers: Mapping[str, str]) -> Origin:
    """The names in a request's headers; a random id where there is no fit one."""
    given, parent = headers.get(REQUEST_ID, ""), headers.get("traceparent", "")
    return Origin(
        given if _VALID_ID.fullmatch(given) else secrets.token_hex(16),
        parent if _TRACEPARENT.fullmatch(parent) else None,
    )
