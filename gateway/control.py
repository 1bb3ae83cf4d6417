"""The operators' door: what the router tells of the mesh, orders to leave, the schedule.

Nothing here needs the mesh to be ready. A page in a browser cannot use it: it has no CORS
headers, and an order must be declared as JSON.
"""

from collections.abc import Sequence

import msgspec
from aiohttp import web
from aiohttp.typedefs import Middleware

from common.messages import Ledger, Name, Status
from common.schedule import Report, change_of, in_words
from gateway.app import empty
from gateway.doors.bodies import JSON, read_json, unambiguous
from gateway.errors import Refusal, invalid
from gateway.figures import Figures
from gateway.mesh.questions import Questions
from gateway.mesh.schedule import report
from gateway.window.board import board
from gateway.window.panes import Panes

MAX_BODY = 16384
"""Bytes; four times a mapping as long as it may be."""
MAX_KEY = 128
"""Characters of a key that an error repeats."""


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

    async def schedule(self, _: web.Request) -> web.Response:
        """`GET /update`."""
        return _answer(report(await self._questions.schedule()))

    async def update(self, http: web.Request) -> web.Response:
        """`POST /update`: 200 with the schedule in force, or 400 with the key; nothing between."""
        try:
            change = change_of(unambiguous(await read_json(http)))
        except msgspec.ValidationError as error:
            raise _unfit(*in_words(error)) from None
        answer = await self._questions.update(change)
        if answer.refusal is not None:
            key, _, what = answer.refusal.partition(": ")
            raise _unfit(key, what)
        return _answer(report(answer))


def build(
    questions: Questions, figures: Figures, panes: Panes, guards: Sequence[Middleware] = ()
) -> web.Application:
    """The application with the operators' routes, behind `guards`."""
    control = Control(questions)
    app = empty(figures, MAX_BODY, guards)
    app.router.add_get("/tetris/status", control.status)
    app.router.add_get("/tetris/ledger", control.ledger)
    app.router.add_post("/tetris/drain", control.drain)
    app.router.add_get("/tetris/board", board)
    app.router.add_get("/update", control.schedule)
    app.router.add_post("/update", control.update)
    panes.add_to(app)
    return app


def _unfit(key: str, what: str) -> Refusal:
    key = key[:MAX_KEY]
    return invalid(f"{key}: {what}"[: 4 * MAX_KEY] if key else what, key or None)


def _answer(body: Status | Ledger | Report | dict[str, str], status: int = 200) -> web.Response:
    return web.Response(body=msgspec.json.encode(body), status=status, content_type=JSON)
