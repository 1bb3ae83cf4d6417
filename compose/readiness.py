"""Asks the gateway whether the mesh is ready."""

import asyncio
import json

TIMEOUT = 2.0
LONGEST_ANSWER = 1 << 16


class Readiness:
    """A probe for `GET /ready` of one gateway."""

    def __init__(self, host: str, port: int) -> None:
        self._host = host
        self._port = port

    async def __call__(self) -> str | None:
        """None when ready, else what the gateway says that it waits for."""
        try:
            async with asyncio.timeout(TIMEOUT):
                answer = await self._get()
        except (OSError, TimeoutError):
            return "waiting for the gateway"
        head, _, body = answer.partition(b"\r\n\r\n")
        status = head.split(b" ", 2)[1:2]
        return None if status == [b"200"] else _reason(body)

    async def _get(self) -> bytes:
        reader, writer = await asyncio.open_connection(self._host, self._port)
        try:
            writer.write(f"GET /ready HTTP/1.0\r\nHost: {self._host}\r\n\r\n".encode())
            await writer.drain()
            return await reader.read(LONGEST_ANSWER)
        finally:
            writer.close()


def _reason(body: bytes) -> str:
    try:
        missing = json.loads(body)["missing"]
    except (ValueError, KeyError, TypeError):
        missing = ["answer"]
    return f"waiting for {', '.join(map(str, missing))}"
