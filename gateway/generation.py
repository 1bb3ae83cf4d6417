"""One generation: a body becomes a request, ids, an open call, and an answer."""

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from aiohttp import web

from common.config import GatewayConfig
from common.messages import Ending, ModelCard
from gateway.bodies import JSON, read_json
from gateway.call import Call
from gateway.calls import Calls
from gateway.errors import Refusal, invalid, too_late
from gateway.figures import Figures
from gateway.openai import Request, parse_chat, parse_completion
from gateway.readiness import Readiness
from gateway.responses import Chat, Completion, Format
from gateway.sse import Events, EventStream
from gateway.streams import Piece, Stream
from gateway.tokenizer import Tokenizer

MAX_PLAN = 256
"""Characters of a forced plan."""


class Generation:
    """The two routes that generate text."""

    def __init__(
        self,
        config: GatewayConfig,
        card: ModelCard,
        tokenizer: Tokenizer,
        calls: Calls,
        readiness: Readiness,
        figures: Figures,
    ) -> None:
        self._config = config
        self._card = card
        self._tokenizer = tokenizer
        self._calls = calls
        self._readiness = readiness
        self._figures = figures

    async def completions(self, http: web.Request) -> web.StreamResponse:
        """`POST /v1/completions`."""
        return await self._serve(http, parse_completion)

    async def chat(self, http: web.Request) -> web.StreamResponse:
        """`POST /v1/chat/completions`."""
        return await self._serve(http, parse_chat)

    async def _serve(
        self, http: web.Request, parse: Callable[[bytes], Request]
    ) -> web.StreamResponse:
        start = asyncio.get_running_loop().time()
        with self._calls.place() as arrival:
            plan = self._forced_plan(http)
            request = parse(await read_json(http))
            self._check(request)
            deadline = start + request.patience(self._config.request_timeout)
            async with _until(deadline):
                stream = await self._stream(request)
            name = ("chatcmpl-" if request.chat else "cmpl-") + secrets.token_hex(16)
            with self._calls.open(name, stream, plan, arrival) as call:
                async with _until(deadline):
                    await call.accepted()
                return await self._answer(http, request, call, deadline)

    def _check(self, request: Request) -> None:
        if request.model != self._card.name:
            message = f"The model '{request.model[:256]}' does not exist."
            raise Refusal(404, message, "model", "model_not_found")
        if not self._readiness.known:
            raise Refusal(503, "The server is starting.", retry_after=1.0)
        self._figures.ignored.inc(len(request.ignored))

    async def _stream(self, request: Request) -> Stream:
        prompt = await self._tokenizer.encode(request.prompt)
        ending = Ending(
            max_tokens=request.budget(len(prompt), self._card.max_model_len),
            min_tokens=request.min_tokens,
            ignore_eos=request.ignore_eos,
            stop_token_ids=request.stop_token_ids,
        )
        text = self._tokenizer.detokenizer()
        return Stream(prompt, request.sampling, ending, request.stops, text)

    async def _answer(
        self, http: web.Request, request: Request, call: Call, deadline: float
    ) -> web.StreamResponse:
        form = self._format(request, call.name)
        headers = {"x-tetris-ignored": ",".join(request.ignored)} if request.ignored else {}
        if call.predicted is not None:
            headers["x-tetris-predicted-ttft"] = f"{call.predicted:.3f}"
        if request.stream:
            return await EventStream(Events(request, form), headers).run(http, call, deadline)
        async with _until(deadline):
            pieces = await _all(call)
        body = form.whole(pieces, call.stream.usage).json()
        return web.Response(body=body, content_type=JSON, headers=headers)

    def _format(self, request: Request, name: str) -> Format:
        created = int(time.time())  # noqa: TID251  # the API asks for the wall clock
        form = Chat if request.chat else Completion
        return form(name, created, self._card.name, self._tokenizer.piece)

    def _forced_plan(self, http: web.Request) -> str | None:
        plan = http.headers.get("x-tetris-plan")
        if plan is None:
            return None
        if not self._config.allow_forced_plans:
            raise invalid("This server does not take forced plans.", "x-tetris-plan")
        if len(plan) > MAX_PLAN or not plan.isascii():
            reason = f"The plan is no ASCII text of at most {MAX_PLAN} characters."
            raise invalid(reason, "x-tetris-plan")
        return plan


async def _all(call: Call) -> list[Piece]:
    pieces: list[Piece] = []
    while call.stream.finish is None:
        pieces += await call.pieces()
    return pieces


@asynccontextmanager
async def _until(deadline: float) -> AsyncIterator[None]:
    try:
        async with asyncio.timeout_at(deadline):
            yield
    except TimeoutError:
        raise too_late() from None
