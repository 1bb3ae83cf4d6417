"""Bodies of requests: JSON, unpacked, whole in time, and not larger than the application takes."""

import asyncio
import json
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import msgspec
from aiohttp import web

from common.schedule import place_of
from gateway.doors.weight import weight
from gateway.errors import Refusal, invalid

BODY = 30.0
"""Seconds for a client to send its body."""
JSON = "application/json"
LARGE = 1 << 16
"""Bytes of a body that is weighed before anything decodes it."""
MAX_WEIGHT = 1 << 19
"""Values that a body may hold, roughly; a prompt of ids cannot be longer, one of text can."""
MAX_REASON = 512
"""Characters of an error that may quote what the client sent."""

Shape = TypeVar("Shape", bound=msgspec.Struct)

_SCALES = ThreadPoolExecutor(1, thread_name_prefix="bodies")


async def read_json(http: web.Request) -> bytes:
    """The raw body of a request.

    Raises:
        Refusal: it is not declared as plain JSON, does not arrive in time, or holds too much.
        HTTPRequestEntityTooLarge: it is too large.
    """
    if http.content_type != JSON:
        raise Refusal(415, f"The content type must be {JSON}.")
    if http.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise Refusal(415, "Compressed bodies are not taken.")
    if (http.content_length or 0) > http.client_max_size:
        raise web.HTTPRequestEntityTooLarge(http.client_max_size, http.content_length or 0)
    try:
        async with asyncio.timeout(BODY):
            body = await http.read()
    except TimeoutError:
        raise Refusal(408, "The body did not arrive in time.") from None
    if len(body) > LARGE:
        loop = asyncio.get_running_loop()
        if await loop.run_in_executor(_SCALES, weight, body) > MAX_WEIGHT:
            raise invalid(f"The body holds more than {MAX_WEIGHT} values.")
    return body


def decoded(body: bytes, shape: type[Shape]) -> Shape:
    """The value of a body, of which unknown fields are ignored.

    Raises:
        Refusal: it is not JSON, or not of that shape, naming the parameter.
    """
    try:
        body.decode()
        return msgspec.json.decode(body, type=shape)
    except msgspec.ValidationError as error:
        key, what = place_of(error)
        reason = f"{key}: {what}" if key else what
        name = key.partition(".")[0].partition("[")[0][:64]
        raise invalid(f"Invalid request: {reason[:MAX_REASON]}.", name or None) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise invalid("The body must be JSON.") from None


def unambiguous(body: bytes) -> object:
    """The value of a JSON body in which no object names a key twice.

    Raises:
        Refusal: it is not JSON, or a key is there twice.
    """
    try:
        value = msgspec.json.decode(body)
        # msgspec has refused everything that Python's parser takes beyond JSON.
        json.loads(body, object_pairs_hook=_once)
    except (msgspec.DecodeError, ValueError, RecursionError):
        raise invalid("The body must be JSON.") from None
    return value


def _once(pairs: list[tuple[str, object]]) -> None:
    keys = set[str]()
    for key, _ in pairs:
        if key in keys:
            raise invalid(f"The key {key[:64]} is there twice.", key[:64])
        keys.add(key)
