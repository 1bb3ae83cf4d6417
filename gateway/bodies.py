"""Bodies of requests: JSON, unpacked, whole in time, and not larger than the application takes."""

import asyncio
import json

import msgspec
from aiohttp import web

from gateway.errors import Refusal, invalid

BODY = 30.0
"""Seconds for a client to send its body."""
JSON = "application/json"


async def read_json(http: web.Request) -> bytes:
    """The raw body of a request.

    Raises:
        Refusal: it is not declared as plain JSON, or does not arrive in time.
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
            return await http.read()
    except TimeoutError:
        raise Refusal(408, "The body did not arrive in time.") from None


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
