"""Writing to who reads slowly: it waits, though not for ever."""

import asyncio

from aiohttp import web

WRITE = 30.0
"""Seconds for a client to take what is written."""


async def write(http: web.Request, response: web.StreamResponse, data: bytes) -> None:
    """Write a part of an answer.

    Raises:
        ConnectionResetError: the client does not read; the connection is cut.
    """
    try:
        async with asyncio.timeout(WRITE):
            await response.write(data)
    except TimeoutError:
        if http.transport is not None:
            http.transport.abort()
        raise ConnectionResetError("the client does not read") from None
