"""Writing to who reads slowly: it waits, though not for ever."""

import asyncio

from aiohttp import web

WRITE = 30.0
"""Seconds for a client to take what is written."""
AT_ONCE = 16384
"""Bytes that an empty connection takes without waiting: a quarter of what it buffers."""


async def write(http: web.Request, response: web.StreamResponse, data: bytes) -> None:
    """Write a part of an answer.

    Raises:
        ConnectionResetError: the client does not read; the connection is cut.
    """
    transport = http.transport
    if transport is not None and len(data) <= AT_ONCE and not transport.get_write_buffer_size():
        # Nothing is ahead of it, so nothing waits: a timer for each token would cost its share.
        await response.write(data)
        return
    try:
        async with asyncio.timeout(WRITE):
            await response.write(data)
    except TimeoutError:
        if transport is not None:
            transport.abort()
        raise ConnectionResetError("the client does not read") from None
