"""`GET /tetris/requests` and `/tetris/requests/{id}`: what became of single requests, and why."""

from itertools import islice

import msgspec
from aiohttp import web
from msgspec import Raw, structs

from common.events import Happening
from gateway.doors.bodies import JSON
from gateway.errors import Refusal
from gateway.mesh.queries import number
from gateway.mesh.questions import Questions
from gateway.window.account import Account, Brief, account_of, brief_of
from gateway.window.journeys import Journey, without_choice
from gateway.window.window import Window

LIMIT, MAX_LIMIT = 50, 500
MAX_CHOICES = 64
FORGOTTEN = "The router does not remember this request."
ONE_BY_ONE = "Ask for one of the choices."


class Requests:
    """Finds requests, and asks the router why each got its plan."""

    def __init__(self, window: Window, questions: Questions) -> None:
        self._window = window
        self._questions = questions

    async def recent(self, http: web.Request) -> web.Response:
        """`GET /tetris/requests?limit=50`, the newest first, of all gateways."""
        limit = int(number(http, "limit", LIMIT, 1, MAX_LIMIT))
        history, journeys = self._window.history, self._window.journeys
        names = dict.fromkeys(journey.name for journey in islice(journeys, limit))
        names |= dict.fromkeys(islice(history.requests(), limit))
        briefs = [brief_of(name, *self._known(name)) for name in names]
        briefs.sort(key=_arrival, reverse=True)
        return _answer({"requests": briefs[:limit]})

    async def one(self, http: web.Request) -> web.Response:
        """`GET /tetris/requests/{id}`: a request's own id or its `x-request-id`."""
        wanted = http.match_info["id"]
        names = self._find(wanted)
        if not names:
            shown = wanted[:128]
            raise Refusal(404, f"No request '{shown}' is remembered.", "id", "request_not_found")
        accounts = [account_of(name, *self._known(name)) for name in names[:MAX_CHOICES]]
        if len(accounts) == 1:
            return _answer(await self._explained(accounts[0]))
        choices = [structs.replace(one, explanation_absent=ONE_BY_ONE) for one in accounts]
        return _answer({"id": wanted, "choices": choices})

    def _known(self, name: str) -> tuple[Journey | None, tuple[Happening, ...]]:
        return self._window.journeys.get(name), self._window.history.of(name)

    def _find(self, wanted: str) -> list[str]:
        history = self._window.history
        if names := self._window.journeys.named(wanted):
            return names
        # Other gateways' requests are known by their own names alone.
        bare = without_choice(wanted)
        for name in (wanted, bare):
            if history.of(name):
                return [name]
        return sorted(name for name in history.requests() if without_choice(name) == wanted)

    async def _explained(self, account: Account) -> Account:
        try:
            answer = await self._questions.plan(account.id)
        except Refusal as refusal:
            return structs.replace(account, explanation_absent=refusal.message)
        if not answer.explanation:
            return structs.replace(account, explanation_absent=FORGOTTEN)
        try:
            msgspec.json.decode(answer.explanation)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return structs.replace(account, explanation_absent="The explanation is no JSON.")
        return structs.replace(account, explanation=Raw(answer.explanation))


def _arrival(brief: Brief) -> float:
    return brief.arrived or 0.0


def _answer(body: Account | dict[str, object]) -> web.Response:
    return web.Response(body=msgspec.json.encode(body), content_type=JSON)
