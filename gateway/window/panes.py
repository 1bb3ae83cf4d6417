"""The operators' routes that look through the window."""

from importlib.metadata import PackageNotFoundError, version

from aiohttp import web

from gateway.mesh.questions import Questions
from gateway.window.requests import Requests
from gateway.window.tracing import Tracing
from gateway.window.watching import Watching
from gateway.window.window import Window


class Panes:
    """All of them, to be added to the operators' application."""

    def __init__(self, window: Window, questions: Questions, model: str) -> None:
        self._tracing = Tracing(window)
        self._requests = Requests(window, questions)
        self._watching = Watching(window, model, _version())

    def add_to(self, app: web.Application) -> None:
        """Serve them there."""
        app.router.add_get("/tetris/events", self._watching.events)
        app.router.add_get("/tetris/trace", self._tracing.trace)
        app.router.add_get("/tetris/requests", self._requests.recent)
        app.router.add_get("/tetris/requests/{id:.+}", self._requests.one)
        app.on_shutdown.append(self._watching.close)


def _version() -> str:
    try:
        return version("tetris-serve")
    except PackageNotFoundError:
        return "unknown"
