"""One generation: a body becomes a request, ids, open calls, and an answer."""

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from aiohttp import web

from common.config import GatewayConfig
from common.messages import ModelCard
from gateway.api.choices import Choices, Order, opened
from gateway.api.openai import parse_chat, parse_completion
from gateway.api.request import Prompt, Request
from gateway.api.responses import Chat, Completion, Format, Head
from gateway.api.sources import Source
from gateway.api.sse import Connection, Events, Telling
from gateway.api.stops import Stops
from gateway.api.tokenizer import Tokenizer
from gateway.doors.bodies import JSON, read_json
from gateway.errors import Refusal, invalid, too_late
from gateway.figures import Figures
from gateway.mesh.calls import Calls
from gateway.mesh.readiness import Readiness
from gateway.mesh.scores import Scores
from gateway.mesh.streams import Stream

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
            patience = request.patience(self._config.request_timeout)
            with self._calls.places.take(request.num_choices - 1):
                name = ("chatcmpl-" if request.chat else "cmpl-") + secrets.token_hex(16)
                order = Order(name, plan, arrival, arrival + patience)
                return await self._generate(http, request, order, start + patience)

    def _check(self, request: Request) -> None:
        if request.model != self._card.name:
            message = f"The model '{request.model[:256]}' does not exist."
            raise Refusal(404, message, "model", "model_not_found")
        if not self._readiness.known:
            raise Refusal(503, "The server is starting.", retry_after=1.0)
        if request.num_choices > self._calls.places.total:
            count, total = request.num_choices, self._calls.places.total
            message = f"The request asks for {count} choices, this server takes {total} at a time."
            raise invalid(message, "n" if len(request.prompts) == 1 else "prompt")
        request.check_ids(self._tokenizer.size)
        self._figures.ignored.inc(request.num_ignored)

    async def _generate(
        self, http: web.Request, request: Request, order: Order, deadline: float
    ) -> web.StreamResponse:
        """Tokenise, submit and answer; the deadline is in loop time."""
        async with _until(deadline):
            sources = [await self._source(request, prompt) for prompt in request.prompts]
        streams = [stream for source in sources for stream in self._streams(request, source)]
        with opened(self._calls, order, streams, request.n) as choices:
            async with _until(deadline):
                await choices.accepted()
            created = int(time.time())  # noqa: TID251  # the API asks for the wall clock
            head = Head(order.name, created, self._card.name)
            form = Chat if request.chat else Completion
            answers = form(head, request, sources, self._tokenizer.piece)
            return await self._answer(http, request, choices, answers, deadline)

    async def _source(self, request: Request, prompt: Prompt) -> Source:
        limit, shown = self._card.max_model_len, request.shown
        full = await self._tokenizer.encode(prompt, request.encoding)
        ids = full[len(full) - request.kept(len(full), limit) :]
        text = ""
        if shown.echo and isinstance(prompt, str) and len(ids) == len(full):
            text = prompt
        elif shown.echo:
            decode, skip = self._tokenizer.decode, request.skip_special
            text = await self._tokenizer.run(lambda: decode(ids, skip=skip))
        return Source(ids, text, Scores(len(ids), shown.scores) if shown.scores >= 0 else None)

    def _streams(self, request: Request, source: Source) -> list[Stream]:
        """One for each choice of a prompt; the first one brings the scores for all of them."""
        ending = request.ending(request.budget(len(source.ids), self._card.max_model_len))
        return [
            Stream(
                source.ids,
                sampling,
                ending,
                Stops(request.stops, are_shown=request.show_stops),
                self._tokenizer.detokenizer(skip=request.skip_special),
                source.scores if sampling.choice == 0 else None,
            )
            for sampling in request.samplings()
        ]

    async def _answer(
        self,
        http: web.Request,
        request: Request,
        choices: Choices,
        form: Format,
        deadline: float,
    ) -> web.StreamResponse:
        headers = {"x-tetris-ignored": ",".join(request.ignored)} if request.ignored else {}
        if (predicted := choices.predicted) is not None:
            headers["x-tetris-predicted-ttft"] = f"{predicted:.3f}"
        # Thousands of scored tokens take their time.
        work = self._tokenizer.run if request.shown.scores >= 0 else _at_once
        if request.stream:
            connection = Connection(http, headers)
            await connection.response.prepare(http)
            events = Events(request, form)
            await Telling(events, choices, deadline, connection.write, work).run()
            await connection.response.write_eof()
            return connection.response
        async with _until(deadline):
            pieces = await choices.all()
            body = await work(lambda: form.whole(pieces, choices.usage).json())
        return web.Response(body=body, content_type=JSON, headers=headers)

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


async def _at_once(work: Callable[[], bytes]) -> bytes:
    return work()


@asynccontextmanager
async def _until(deadline: float) -> AsyncIterator[None]:
    try:
        async with asyncio.timeout_at(deadline):
            yield
    except TimeoutError:
        raise too_late() from None
