"""The routes of the gateway, and what holds for all of them: limits, request ids, error JSON."""

import logging
import math
from collections.abc import Awaitable, Callable, Sequence

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.log import server_logger
from aiohttp.typedefs import Handler, Middleware
from msgspec import Struct

from common.config import GatewayConfig
from gateway.api.generation import Generation
from gateway.api.openapi import Document
from gateway.api.probes import Probes
from gateway.api.tokens import Tokens
from gateway.doors.bodies import JSON
from gateway.doors.connections import claim
from gateway.doors.guard import CHALLENGE
from gateway.doors.origin import CURRENT, REQUEST_ID, origin_of
from gateway.errors import Refusal
from gateway.figures import Figures

CUT = 2.0
"""Seconds for what is still open at the very end to be told so."""
LINGER = 2.0
"""Seconds for a client that still sends to read that nobody wants it."""


class Routes(Struct, frozen=True):
    """Who answers at the public door."""

    generation: Generation
    tokens: Tokens
    probes: Probes
    document: Document


def build(
    config: GatewayConfig, routes: Routes, figures: Figures, guards: Sequence[Middleware] = ()
) -> web.Application:
    """The application with all public routes."""
    app = empty(figures, config.max_body_bytes, guards)
    probes = routes.probes
    app.on_response_prepare.append(_hang_up(probes.stopping))
    app.router.add_post("/v1/completions", routes.generation.completions)
    app.router.add_post("/v1/chat/completions", routes.generation.chat)
    app.router.add_get("/v1/models", probes.models)
    app.router.add_get("/v1/models/{id:.+}", probes.model)
    app.router.add_post("/tokenize", routes.tokens.tokenize)
    app.router.add_post("/detokenize", routes.tokens.detokenize)
    app.router.add_get("/live", probes.live)
    app.router.add_get("/health", probes.health)
    app.router.add_get("/ready", probes.ready)
    app.router.add_get("/load", probes.load)
    app.router.add_get("/version", probes.version)
    app.router.add_get("/metrics", probes.metrics)
    app.router.add_get("/openapi.json", routes.document.get)
    return app


def empty(figures: Figures, max_body: int, guards: Sequence[Middleware] = ()) -> web.Application:
    """An application without routes whose errors are JSON; bodies are bounded, in bytes."""
    outside_in: list[Middleware] = [claim, _originate, _errors_as_json(figures), *guards]
    app = web.Application(client_max_size=max_body, middlewares=outside_in)
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
        max_headers=128,
        lingering_time=LINGER,
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
        if refusal.status == 401:
            headers["WWW-Authenticate"] = CHALLENGE
        if refusal.retry_after is not None:
            headers["Retry-After"] = str(max(1, math.ceil(refusal.retry_after)))
        return web.Response(
            body=refusal.body(), status=refusal.status, content_type=JSON, headers=headers
        )

    return answer


def _too_large(http: web.Request) -> Refusal:
    return Refusal(413, f"The body is larger than {http.client_max_size} bytes.")
