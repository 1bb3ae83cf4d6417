"""The routes of the gateway, and what holds for all of them: limits, request ids, error JSON."""

import logging
import math
from collections.abc import Awaitable, Callable

import msgspec
from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.log import server_logger
from aiohttp.typedefs import Handler, Middleware

from common.config import GatewayConfig
from common.messages import ModelCard
from gateway.bodies import JSON
from gateway.errors import Refusal
from gateway.figures import Figures
from gateway.generation import Generation
from gateway.origin import CURRENT, REQUEST_ID, origin_of

CUT = 2.0
"""Seconds for what is still open at the very end to be told so."""
_METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Probes:
    """What the routes beside generation tell.

    Args:
        moving: whether the loop that reads the mesh is alive.
        joined: roles without which nothing is served, and members by role.
        stopping: whether this gateway is to end.
        render: the metrics in Prometheus' text format.
    """

    def __init__(
        self,
        card: ModelCard,
        moving: Callable[[], bool],
        joined: Callable[[], tuple[list[str], dict[str, int]]],
        stopping: Callable[[], bool],
        render: Callable[[], bytes],
    ) -> None:
        self.stopping = stopping
        self._card = card
        self._moving = moving
        self._joined = joined
        self._render = render

    async def health(self, _: web.Request) -> web.Response:
        """`GET /health`: this process moves; answered by the loop that must move."""
        return web.Response(status=200 if self._moving() else 503)

    async def ready(self, _: web.Request) -> web.Response:
        """`GET /ready`: the mesh can serve, or what it lacks."""
        missing, members = self._joined()
        stopping = self.stopping()
        ready = not missing and not stopping
        body = {"ready": ready, "stopping": stopping, "missing": missing, "members": members}
        return _json(body, 200 if ready else 503)

    async def metrics(self, _: web.Request) -> web.Response:
        """`GET /metrics`."""
        return web.Response(body=self._render(), headers={"Content-Type": _METRICS_TYPE})

    async def models(self, _: web.Request) -> web.Response:
        """`GET /v1/models`."""
        return _json({"object": "list", "data": [self._model()]})

    async def model(self, http: web.Request) -> web.Response:
        """`GET /v1/models/{id}`; names may hold slashes."""
        name = http.match_info["id"]
        if name != self._card.name:
            message = f"The model '{name[:256]}' does not exist."
            raise Refusal(404, message, "model", "model_not_found")
        return _json(self._model())

    def _model(self) -> dict[str, str | int]:
        return {
            "id": self._card.name,
            "object": "model",
            "created": 0,
            "owned_by": "tetris",
            "root": self._card.name,
            "max_model_len": self._card.max_model_len,
        }


def build(
    config: GatewayConfig, generation: Generation, probes: Probes, figures: Figures
) -> web.Application:
    """The application with all routes."""
    app = empty(figures, config.max_body_bytes)
    app.on_response_prepare.append(_hang_up(probes.stopping))
    app.router.add_post("/v1/completions", generation.completions)
    app.router.add_post("/v1/chat/completions", generation.chat)
    app.router.add_get("/v1/models", probes.models)
    app.router.add_get("/v1/models/{id:.+}", probes.model)
    app.router.add_get("/health", probes.health)
    app.router.add_get("/ready", probes.ready)
    app.router.add_get("/metrics", probes.metrics)
    return app


def empty(figures: Figures, max_body: int) -> web.Application:
    """An application without routes whose errors are JSON; bodies are bounded, in bytes."""
    app = web.Application(
        client_max_size=max_body, middlewares=[_originate, _errors_as_json(figures)]
    )
    app.on_response_prepare.append(_name)
    return app


def runner(app: web.Application) -> web.AppRunner:
    """A server for the application, with the limits that aiohttp does not set by itself."""
    server_logger.addFilter(_is_ours)
    return web.AppRunner(
        app,
        handler_cancellation=True,
        keepalive_timeout=75.0,
        max_line_size=8190,
        max_field_size=8190,
        auto_decompress=False,
        access_log=None,
        shutdown_timeout=CUT,
    )


def _is_ours(record: logging.LogRecord) -> bool:
    """Whether a line is for our log: broken HTTP is the client's doing, and quotes it."""
    return not (record.exc_info and isinstance(record.exc_info[1], HttpProcessingError))


async def _name(http: web.BaseRequest, response: web.StreamResponse) -> None:
    response.headers["Server"] = "tetris"
    # What is no request for the application is in nobody's task, and gets a name here.
    response.headers[REQUEST_ID] = (CURRENT.get() or origin_of(http.headers)).request_id


@web.middleware
async def _originate(request: web.Request, handler: Handler) -> web.StreamResponse:
    CURRENT.set(origin_of(request.headers))
    return await handler(request)


def _hang_up(stopping: Callable[[], bool]) -> Callable[..., Awaitable[None]]:
    async def sign(_: web.BaseRequest, response: web.StreamResponse) -> None:
        if stopping():
            response.force_close()
            response.headers["Connection"] = "close"

    return sign


def _errors_as_json(figures: Figures) -> Middleware:
    @web.middleware
    async def answer(request: web.Request, handler: Handler) -> web.StreamResponse:
        headers: dict[str, str] = {}
        try:
            return await handler(request)
        except Refusal as error:
            refusal = error
        except web.HTTPRequestEntityTooLarge:
            refusal = _too_large(request)
        except web.HTTPException as error:
            refusal = Refusal(
                error.status, f"{request.method} {request.path[:256]}: {error.reason}."
            )
            if "Allow" in error.headers:
                headers["Allow"] = error.headers["Allow"]
        figures.refused.labels(refusal.status).inc()
        if refusal.retry_after is not None:
            headers["Retry-After"] = str(max(1, math.ceil(refusal.retry_after)))
        return web.Response(
            body=refusal.body(), status=refusal.status, content_type=JSON, headers=headers
        )

    return answer


def _too_large(http: web.Request) -> Refusal:
    return Refusal(413, f"The body is larger than {http.client_max_size} bytes.")


def _json(body: object, status: int = 200) -> web.Response:
    return web.Response(body=msgspec.json.encode(body), status=status, content_type=JSON)
