"""The routes beside generation that only look: health, readiness, load, models, metrics."""

from collections.abc import Callable
from importlib import metadata

import msgspec
from aiohttp import web

from common.messages import ModelCard
from gateway.doors.bodies import JSON
from gateway.errors import Refusal

METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Ready(msgspec.Struct, frozen=True):
    """Answer of `GET /ready`."""

    ready: bool
    stopping: bool
    missing: list[str]
    """Roles without which nothing is served."""
    members: dict[str, int]


class Stuck(msgspec.Struct, frozen=True):
    """Answer of `GET /health` when nothing gets on; when all is well it is empty."""

    status: str
    reason: str


class Load(msgspec.Struct, frozen=True):
    """Answer of `GET /load`."""

    server_load: int
    """Requests being served."""


class Version(msgspec.Struct, frozen=True):
    """Answer of `GET /version`."""

    version: str


class Model(msgspec.Struct, frozen=True):
    """A model that can be asked for."""

    id: str
    object: str
    created: int
    owned_by: str
    root: str
    max_model_len: int


class Models(msgspec.Struct, frozen=True):
    """Answer of `GET /v1/models`."""

    object: str
    data: list[Model]


class Sights(msgspec.Struct, frozen=True):
    """What the probes look at."""

    trouble: Callable[[], str | None]
    """Why nothing gets on, if so."""
    joined: Callable[[], tuple[list[str], dict[str, int]]]
    """Roles without which nothing is served, and members by role."""
    load: Callable[[], int]
    """Requests being served."""
    stopping: Callable[[], bool]
    """Whether this gateway is to end."""
    render: Callable[[], bytes]
    """The metrics in Prometheus' text format."""


class Probes:
    """What the routes beside generation tell."""

    def __init__(self, card: ModelCard, sights: Sights) -> None:
        self.stopping = sights.stopping
        self._sights = sights
        name = card.name
        self._model = Model(name, "model", 0, "tetris", name, card.max_model_len)
        self._version = Version(version())

    async def live(self, _: web.Request) -> web.Response:
        """`GET /live`: the event loop answers."""
        return web.Response()

    async def health(self, _: web.Request) -> web.Response:
        """`GET /health`: this gateway and the mesh behind it get on with what is open."""
        trouble = self._sights.trouble()
        return web.Response() if trouble is None else _json(Stuck("stuck", trouble), 503)

    async def ready(self, _: web.Request) -> web.Response:
        """`GET /ready`: the mesh can serve, or what it lacks."""
        missing, members = self._sights.joined()
        stopping = self.stopping()
        ready = not missing and not stopping
        return _json(Ready(ready, stopping, missing, members), 200 if ready else 503)

    async def load(self, _: web.Request) -> web.Response:
        """`GET /load`."""
        return _json(Load(self._sights.load()))

    async def version(self, _: web.Request) -> web.Response:
        """`GET /version`."""
        return _json(self._version)

    async def metrics(self, _: web.Request) -> web.Response:
        """`GET /metrics`."""
        return web.Response(body=self._sights.render(), headers={"Content-Type": METRICS_TYPE})

    async def models(self, _: web.Request) -> web.Response:
        """`GET /v1/models`."""
        return _json(Models("list", [self._model]))

    async def model(self, http: web.Request) -> web.Response:
        """`GET /v1/models/{id}`; names may hold slashes."""
        name = http.match_info["id"]
        if name != self._model.id:
            message = f"The model '{name[:256]}' does not exist."
            raise Refusal(404, message, "model", "model_not_found")
        return _json(self._model)


def version() -> str:
    """The version of this package."""
    try:
        return metadata.version("tetris-serve")
    except metadata.PackageNotFoundError:
        return "0+unknown"


def _json(body: msgspec.Struct, status: int = 200) -> web.Response:
    return web.Response(body=msgspec.json.encode(body), status=status, content_type=JSON)
