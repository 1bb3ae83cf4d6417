"""A listening address and the application behind it."""

import asyncio
from http import HTTPStatus

from aiohttp import web

from gateway.doors.bodies import JSON
from gateway.doors.connections import Connection, Limits, Places
from gateway.errors import Refusal
from gateway.figures import Figures


class Door:
    """Takes connections of clients, within limits, until it is shut.

    Args:
        runner: of the application; the door sets it up and cleans it up.
    """

    def __init__(self, runner: web.AppRunner, limits: Limits, figures: Figures) -> None:
        self._runner = runner
        self._limits = limits
        self._figures = figures
        self._places = Places(limits)
        self._server: asyncio.Server | None = None

    async def open(self, host: str, port: int) -> list[tuple[str, int]]:
        """Listen; the addresses and ports that were bound.

        Raises:
            OSError: it cannot be listened on.
        """
        await self._runner.setup()
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(self._connection, host, port, backlog=128)
        return [bound.getsockname()[:2] for bound in self._server.sockets]

    def shut(self) -> None:
        """Take no new connections; those that are open end with their requests."""
        if self._server is not None:
            self._server.close()

    async def close(self) -> None:
        """End what is still open, too."""
        self.shut()
        await self._runner.cleanup()

    def _connection(self) -> Connection:
        server = self._runner.server
        assert server is not None, "set up before it listens"
        return Connection(server, self._places, self._limits, self._refuse)

    def _refuse(self, refusal: Refusal) -> bytes:
        self._figures.refused.labels(refusal.status).inc()
        body = refusal.body()
        after = "" if refusal.retry_after is None else f"Retry-After: {refusal.retry_after:.0f}\r\n"
        head = (
            f"HTTP/1.1 {refusal.status} {HTTPStatus(refusal.status).phrase}\r\n"
            f"Server: tetris\r\nContent-Type: {JSON}\r\nContent-Length: {len(body)}\r\n{after}"
            "Connection: close\r\n\r\n"
        )
        return head.encode() + body
