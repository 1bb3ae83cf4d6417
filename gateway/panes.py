"""The operators' routes that look through the window."""

from importlib.metadata import PackageNotFoundError, version

from aiohttp import web

from gateway.watching import Watching
from gateway.window import Window


class Panes:
    """All of them, to be added to the operators' application."""

    def __init__(self, window: Window, model: str) -> None:
        self._watching = Watching(window, model, _version())

    def add_to(self, app: web.Application) -> None:
        """Serve them there."""
        app.router.add_get("/tetris/events", self._watching.events)
        app.on_shutdown.append(self._watching.close)


def _version() -> str:
    try:
        return version("tetris-serve")
    except PackageNotFoundError:
        return "unknown"
