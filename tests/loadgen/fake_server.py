"""An OpenAI server in a thread of its own that streams as many words as it is asked for."""

import asyncio
import json
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

from aiohttp import web

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class FakeServer:
    """Serves while used as a context; `bodies` are the requests it got."""

    def __init__(self) -> None:
        self.bodies: list[dict] = []
        self.complete: Handler = self.stream
        self._started = threading.Event()
        self.url = ""

    async def models(self, _: web.Request) -> web.Response:
        return web.json_response({"object": "list", "data": [{"id": "tiny"}]})

    async def post(self, http: web.Request) -> web.StreamResponse:
        self.bodies.append(await http.json())
        return await self.complete(http)

    async def stream(self, http: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(http)
        count = self.bodies[-1]["max_tokens"]
        words = [{"choices": [{"index": 0, "text": "word "}]}] * count
        usage = {"prompt_tokens": 7, "completion_tokens": count, "total_tokens": 7 + count}
        for event in [*words, {"choices": [], "usage": usage}]:
            await response.write(f": ping\n\ndata: {json.dumps(event)}\n\n".encode())
        await response.write(b"data: [DONE]\n\n")
        return response

    @contextmanager
    def serving(self) -> Iterator["FakeServer"]:
        loop = asyncio.new_event_loop()
        thread = threading.Thread(target=loop.run_until_complete, args=[self._serve(loop)])
        thread.start()
        self._started.wait()
        try:
            yield self
        finally:
            loop.call_soon_threadsafe(self._stop.set)
            thread.join()
            loop.close()

    async def _serve(self, loop: asyncio.AbstractEventLoop) -> None:
        self._stop = asyncio.Event()
        app = web.Application()
        app.router.add_get("/v1/models", self.models)
        app.router.add_post("/v1/completions", self.post)
        runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        self._started.set()
        await self._stop.wait()
        await runner.cleanup()
