"""A control door that shows a recording: the real page, and its stream as a gateway sends it.

By hand: python -m tests.browser.feed --scene heavy --port 8001, then /tetris/board.
"""

import argparse
import asyncio
from collections import deque
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from itertools import groupby
from time import time  # noqa: TID251 - a recording is replayed on the wall clock

import msgspec
from aiohttp import web

from common.events import Happening, Planned
from gateway.window.board import board
from services.router.explain import explain
from tests.browser.recording import Recording
from tests.browser.scenes import SCENES, Scene, demands

PERIOD = 0.1
"""Seconds between two messages."""
KEPT = 300.0
"""Seconds that a late viewer is told."""


class Feed:
    """One recording on its way, and everybody who watches it."""

    def __init__(self, scene: Scene, past: float = 140.0, key: str | None = None) -> None:
        self.key = key
        self.silent = False
        """Whether viewers are let go and nobody is let in."""
        self.connections = 0
        self.raw: deque[bytes] = deque()
        """Events of the stream that go out next, as they are."""
        self._recording = Recording(scene, time() - past)
        self._ahead = self._recording.happenings(demands(scene))
        self._next = next(self._ahead)
        self.told: deque[Happening] = deque()
        self._first = 0

    def app(self) -> web.Application:
        """The routes of the control door that the page needs."""
        app = web.Application()
        app.router.add_get("/tetris/board", board)
        app.router.add_get("/tetris/events", self._events)
        app.router.add_get("/tetris/requests/{id}", self._request)
        return app

    def planned(self, request: str) -> Planned:
        """What was told of a request's plan."""
        events = (event for event in self.told if isinstance(event, Planned))
        return next(event for event in events if event.request == request)

    @asynccontextmanager
    async def serve(self, port: int = 0) -> AsyncIterator[str]:
        """Listen on the loopback; the address of the page."""
        runner = web.AppRunner(self.app(), shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", port)
        await site.start()
        try:
            yield f"http://127.0.0.1:{runner.addresses[0][1]}/tetris/board"
        finally:
            await runner.cleanup()

    def _advance(self) -> int:
        """Let happen what is due; the number of the event after the last one."""
        now = time()
        while self._next.at <= now:
            self.told.append(self._next)
            self._next = next(self._ahead)
        while self.told and self.told[0].at < now - KEPT:
            self.told.popleft()
            self._first += 1
        return self._first + len(self.told)

    def _is_let_in(self, http: web.Request) -> bool:
        return self.key is None or http.headers.get("Authorization") == f"Bearer {self.key}"

    async def _events(self, http: web.Request) -> web.StreamResponse:
        if self.silent:
            raise web.HTTPServiceUnavailable
        if not self._is_let_in(http):
            raise web.HTTPUnauthorized
        self.connections += 1
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(http)
        end = self._advance()
        since = time() - float(http.query["seconds"])
        past = [event for event in self.told if event.at >= since]
        await response.write(_clock())
        for data in _messages(past):
            await response.write(data)
        turn = 0
        while not self.silent:
            await asyncio.sleep(PERIOD)
            turn += 1
            begin, end = end, self._advance()
            fresh = [self.told[index - self._first] for index in range(begin, end)]
            data = b"".join(_messages(fresh))
            if turn % 10 == 0:
                data += _clock() + b": ping\n\n"
            while self.raw:
                data += self.raw.popleft()
            try:
                await response.write(data)
            except ConnectionError:
                break
        return response

    async def _request(self, http: web.Request) -> web.Response:
        """Why a request has got its plan, as long as the recording remembers."""
        if not self._is_let_in(http):
            raise web.HTTPUnauthorized
        for request, plan in reversed(self._recording.plans):
            if request == http.match_info["id"]:
                told = explain(plan, self._recording.scheduler.model)
                answer = {"candidates": told.candidates, "chunkings": told.chunkings}
                body = msgspec.json.encode({"id": request, "explanation": {"plan": answer}})
                return web.Response(body=body, content_type="application/json")
        raise web.HTTPNotFound


def _messages(events: list[Happening]) -> Iterator[bytes]:
    for _, some in groupby(enumerate(events), lambda pair: pair[0] // 512):
        yield b"data: " + msgspec.json.encode([event for _, event in some]) + b"\n\n"


def _clock() -> bytes:
    told = {"wall": time(), "model": "Llama-3-8B", "version": "0.1.0"}
    return b"event: clock\ndata: " + msgspec.json.encode(told) + b"\n\n"


async def _main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--scene", choices=sorted(SCENES), default="heavy")
    parser.add_argument("--port", type=int, default=8001)
    parser.add_argument("--key")
    given = parser.parse_args()
    async with Feed(SCENES[given.scene], key=given.key).serve(given.port):
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(_main())
