"""The operators' door: what the router tells of the mesh, and the order to a member to leave.

Nothing here needs the mesh to be ready. A page in a browser cannot use it: it has no CORS
headers, and an order must be declared as JSON.
"""

import msgspec
from aiohttp import web

from common.messages import Ledger, Name, Status
from gateway.app import empty
from gateway.bodies import JSON, read_json
from gateway.errors import Refusal, invalid
from gateway.figures import Figures
from gateway.questions import Questions

MAX_BODY = 4096
"""Bytes."""


class Order(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Body of `POST /tetris/drain`: the member that is to leave."""

    name: Name


class Control:
    """The routes of operators."""

    def __init__(self, questions: Questions) -> None:
        self._questions = questions

    async def status(self, _: web.Request) -> web.Response:
        """`GET /tetris/status`."""
        return _answer(await self._questions.status())

    async def ledger(self, _: web.Request) -> web.Response:
        """`GET /tetris/ledger`."""
        return _answer(await self._questions.ledger())

    async def drain(self, http: web.Request) -> web.Response:
        """`POST /tetris/drain`: 202, or 404 with the router's reason."""
        try:
            order = msgspec.json.decode(await read_json(http), type=Order)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise invalid('The body must be {"name": "..."}.', "name") from error
        answer = await self._questions.drain(order.name)
        if answer.refusal is not None:
            raise Refusal(404, answer.refusal, "name")
        return _answer({"draining": order.name}, 202)


def build(questions: Questions, figures: Figures) -> web.Application:
    """The application with the operators' routes."""
    control = Control(questions)
    app = empty(figures, MAX_BODY)
    app.router.add_get("/tetris/status", control.status)
    app.router.add_get("/tetris/ledger", control.ledger)
    app.router.add_post("/tetris/drain", control.drain)
    return app


def _answer(body: Status | Ledger | dict[str, str], status: int = 200) -> web.Response:
    return web.Response(body=msgspec.json.encode(body), status=status, content_type=JSON)
