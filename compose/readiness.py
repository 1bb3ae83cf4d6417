"""Asks the gateway whether the mesh is ready."""

import asyncio
from collections.abc import Mapping

import msgspec

TIMEOUT = 2.0
LONGEST_ANSWER = 1 << 16


class Answer(msgspec.Struct, frozen=True):
    """The body of `GET /ready`."""

    missing: list[str] = []
    """Roles without which nothing is served."""
    members: dict[str, int] = {}
    """How many of each role have joined."""


class Readiness:
    """A probe for `GET /ready` of one gateway.

    Args:
        needed: members of each role that must have joined.
    """

    def __init__(self, host: str, port: int, needed: Mapping[str, int]) -> None:
        self._host = host
        self._port = port
        self._needed = needed

    async def __call__(self) -> str | None:
        """None when ready, else what the mesh still waits for."""
        try:
            async with asyncio.timeout(TIMEOUT):
                head, _, body = (await self._get()).partition(b"\r\n\r\n")
            answer = msgspec.json.decode(body, type=Answer)
        except (OSError, TimeoutError, msgspec.DecodeError):
            return "waiting for the gateway"
        late = answer.missing or self._late(answer.members)
        if not late and head.split(b" ", 2)[1:2] == [b"200"]:
            return None
        return f"waiting for {', '.join(late) or 'the gateway'}"

    def _late(self, members: Mapping[str, int]) -> list[str]:
        joined = {role: members.get(role, count) for role, count in self._needed.items()}
        return [
            f"{role} ({joined[role]} of {count})"
            for role, count in self._needed.items()
            if joined[role] < count
        ]

    async def _get(self) -> bytes:
        reader, writer = await asyncio.open_connection(self._host, self._port)
        try:
            writer.write(f"GET /ready HTTP/1.0\r\nHost: {self._host}\r\n\r\n".encode())
            await writer.drain()
            return await reader.read(LONGEST_ANSWER)
        finally:
            writer.close()
