"""A browser that shows the board, and notes what a page must not do."""

import asyncio
import os
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest

api = pytest.importorskip("playwright.async_api", reason="needs: pip install -e '.[browser]'")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
if CHROMIUM is None:
    pytest.skip("needs chromium on the PATH", allow_module_level=True)

from tests.browser.feed import Feed  # noqa: E402
from tests.browser.scenes import SCENES  # noqa: E402

WAIT = 30.0
"""Seconds that a page may take to show something."""


class Watched:
    """One page on a feed."""

    def __init__(self, page, feed: Feed, url: str) -> None:
        self.page, self.feed, self.url = page, feed, url
        self.complaints: list[str] = []
        self.requests: list[str] = []
        page.on("console", self._heard)
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("request", lambda request: self.requests.append(request.url))

    def _heard(self, message) -> None:
        if message.type in ("error", "warning"):
            self.complaints.append(message.text)

    def strangers(self) -> list[str]:
        """Requests to anybody but the page's own origin; what is inside the page is none."""
        own = urlsplit(self.url)[:2]
        return [url for url in self.requests if urlsplit(url)[:2] != own and url[:5] != "data:"]

    async def until(self, expression: str) -> None:
        """Wait for something to be true on the page."""
        # Playwright's own way to wait evaluates strings inside the page, which its policy forbids.
        async with asyncio.timeout(WAIT):
            while not await self.page.evaluate(expression):  # noqa: ASYNC110
                await asyncio.sleep(0.05)

    async def open(self) -> None:
        """Load the page and wait for the first data."""
        await self.page.goto(self.url)
        await self.until("tetris.connection() === 'live' && tetris.plot().rows > 0")

    async def block(self, condition: str) -> tuple[dict, float, float]:
        """A block that is well inside the picture, and where its middle is on the page."""
        await self.until(f"tetris.blocks().some((b) => {condition})")
        found = await self.page.evaluate(f"tetris.blocks().filter((b) => {condition})")
        one = found[len(found) // 2]
        frame = await self.page.locator("#live").bounding_box()
        return (
            one,
            frame["x"] + one["x"] + one["width"] / 2,
            frame["y"] + one["y"] + one["height"] / 2,
        )


@asynccontextmanager
async def watching(
    feed: Feed, width: int = 1440, height: int = 900, **more
) -> AsyncIterator[Watched]:
    """A fresh browser on a served feed."""
    async with api.async_playwright() as playwright, feed.serve() as url:
        browser = await playwright.chromium.launch(
            executable_path=CHROMIUM,
            args=["--no-sandbox", "--enable-precise-memory-info", "--js-flags=--expose-gc"],
        )
        try:
            size = {"width": width, "height": height}
            context = await browser.new_context(viewport=size, **more)
            yield Watched(await context.new_page(), feed, url)
        finally:
            await browser.close()


def pictures(fallback: Path) -> Path:
    """Where screenshots go: the documentation only when the makefile says so."""
    folder = Path(os.environ.get("BOARD_PICTURES", fallback))
    folder.mkdir(parents=True, exist_ok=True)
    return folder


Scenario = Callable[[Watched], Awaitable[None]]


def watch(scenario: Scenario, scene: str = "heavy", key: str | None = None, **more) -> Watched:
    async def run() -> Watched:
        async with watching(Feed(SCENES[scene], key=key), **more) as watched:
            await scenario(watched)
            return watched

    return asyncio.run(run())
