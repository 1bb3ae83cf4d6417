import asyncio
import json
import os
import sys
from time import time  # noqa: TID251 - hostile events have to be of now

from common.events import Began
from tests.browser.watching import Watched, watch

report = sys.stdout.write
HOSTILE = "<img src=x onerror=alert(1)>" + "x" * 80


def test_a_closed_door_asks_for_the_key_and_keeps_it_in_the_tab() -> None:
    async def scenario(on: Watched) -> None:
        await on.page.goto(on.url)
        await on.page.locator("#key").wait_for(state="visible")
        assert on.feed.connections == 0
        await on.page.fill("#secret", "wrong")
        async with on.page.expect_response("**/tetris/events*") as refused:
            await on.page.keyboard.press("Enter")
        assert (await refused.value).status == 401
        await on.page.fill("#secret", "open-sesame")
        await on.page.keyboard.press("Enter")
        await on.until("tetris.connection() === 'live' && tetris.plot().rows > 0")
        assert await on.page.locator("#key").is_hidden()
        kept = "JSON.stringify({...localStorage}) + document.cookie + location"
        assert "open-sesame" not in await on.page.evaluate(kept)
        assert await on.page.evaluate("sessionStorage.getItem('key')") == "open-sesame"
        assert all("open-sesame" not in url for url in on.requests)

    watch(scenario, key="open-sesame")


def test_a_lost_stream_is_taken_up_again_and_told_anew() -> None:
    async def scenario(on: Watched) -> None:
        await on.open()
        on.feed.silent = True
        await on.until("tetris.connection() === 'lost'")
        on.feed.silent = False
        await on.until("tetris.connection() === 'live' && tetris.blocks().length > 50")
        assert on.feed.connections == 2
        keys = "tetris.blocks().map((b) => [b.request, b.attempt, b.index, b.member].join())"
        assert await on.page.evaluate(f"new Set({keys}).size === tetris.blocks().length")

    watch(scenario)


def test_a_held_picture_listens_to_nobody_until_it_goes_on() -> None:
    async def scenario(on: Watched) -> None:
        await on.open()
        await on.page.click("#pause")
        place = "JSON.stringify(tetris.blocks().filter((b) => b.isDone).slice(-5))"
        before = await on.page.evaluate(place)
        await asyncio.sleep(0.7)
        assert await on.page.evaluate(place) == before
        await on.page.click("#pause")
        await on.until("tetris.connection() === 'live'")
        assert await on.page.evaluate(place) != before

    watch(scenario)


def test_a_wider_span_shows_what_was_before() -> None:
    async def scenario(on: Watched) -> None:
        await on.page.add_init_script("sessionStorage.span ??= '15'")
        await on.open()
        await on.until("tetris.kept().trimmed > 0")
        few = await on.page.evaluate("tetris.kept().requests")
        await on.page.click("[data-span='300']")
        await on.until(f"tetris.kept().requests > {few} + 10")
        assert on.feed.connections == 2

    watch(scenario)


def event(kind: str, **fields: object) -> bytes:
    return b"data: " + json.dumps([{"type": kind, "at": time(), **fields}]).encode() + b"\n\n"


def test_hostile_and_unknown_events_are_words_at_most() -> None:
    async def scenario(on: Watched) -> None:
        await on.open()
        chunk = {"length": 7, "size": 2, "start": time() + 4, "seconds": 4.0}
        plan = {
            "request": HOSTILE,
            "attempt": 1,
            "arrived": time(),
            "length": 7,
            "members": [HOSTILE, "prefill-0"],
            "chunks": [chunk],
            "decode": HOSTILE,
            "ttft": 8.0,
            "policy": HOSTILE,
            "rate": 0.1,
        }
        on.feed.raw += [
            b"data: not json\n\n",
            b": a comment\n\n",
            b"event: news\ndata: {}\n\n",
            event("Unheard", request="r", attempt=1),
            event("Planned", **plan),
            b'event: hole\ndata: {"lost": 7}\n\n',
        ]
        _, x, y = await on.block(f"b.request === {json.dumps(HOSTILE)} && b.member.length > 9")
        assert "7 events lost" in await on.page.locator("#note").inner_text()
        await on.page.mouse.click(x, y)
        assert HOSTILE in await on.page.locator("#card").inner_text()
        assert await on.page.locator("img").count() == 0

    watched = watch(scenario, "light")
    assert [one for one in watched.complaints if "404" not in one] == []


def test_a_plan_that_the_mesh_has_forgotten_does_not_stay_for_ever() -> None:
    async def scenario(on: Watched) -> None:
        await on.open()
        chunk = {"length": 7, "size": 1, "start": time() + 1, "seconds": 2.0}
        plan = {
            "request": "ghost",
            "attempt": 1,
            "arrived": time(),
            "length": 7,
            "members": ["prefill-0"],
            "chunks": [chunk],
            "decode": "decode-0",
            "ttft": 3.0,
            "policy": "cdsp",
            "rate": 0.1,
        }
        on.feed.raw.append(event("Planned", **plan))
        await on.until("tetris.blocks().some((b) => b.request === 'ghost')")
        await on.until("!tetris.blocks().some((b) => b.request === 'ghost')")

    watch(scenario, "idle")


def test_what_is_kept_stays_bounded_under_60_chunks_a_second() -> None:
    seconds = float(os.environ.get("BOARD_SECONDS", "15"))

    async def scenario(on: Watched) -> None:
        await on.page.add_init_script(
            "window.longTasks = []; new PerformanceObserver((list) => longTasks.push("
            "...list.getEntries().map((e) => e.duration))).observe({entryTypes: ['longtask']})"
        )
        await on.open()
        await asyncio.sleep(3)
        await on.page.evaluate("longTasks.length = 0")
        heaps, most, end = [], 0, time() + seconds
        while time() < end:
            await asyncio.sleep(min(10.0, seconds / 3))
            kept = await on.page.evaluate("tetris.kept()")
            most = max(most, kept["requests"])
            # A replay holds a minute more than is shown, and then goes.
            assert kept["requests"] < 60 * 60 and kept["open"] < 500, kept
            assert kept["colours"] <= kept["requests"] + kept["waiting"] + 500, kept
            assert kept["samples"] < 60 * 120, kept
            heap = "(gc(), performance.memory.usedJSHeapSize)"
            heaps.append(await on.page.evaluate(heap) / 1e6)
        told = [event for event in on.feed.told if isinstance(event, Began)]
        assert kept["trimmed"] > kept["requests"] / 4
        rate = len(told) / (told[-1].at - told[0].at)
        report(f"\n{rate:.0f} chunks/s on {kept['rows']} instances for {seconds:.0f} s")
        frames = await on.page.evaluate("tetris.frames()")
        long = await on.page.evaluate("longTasks")
        for name, values in frames.items():
            values.sort()
            p50, p95 = values[len(values) // 2], values[int(len(values) * 0.95)]
            report(f"\n{name}: p50 {p50:.1f} ms, p95 {p95:.1f} ms, of {len(values)}")
        report(f"\nlong tasks: {len(long)}, longest {max(long, default=0):.0f} ms\n")
        report(f"requests kept at most: {most}; heap, MB: {[round(heap, 1) for heap in heaps]}\n")

    watched = watch(scenario, "rush", color_scheme="dark")
    assert watched.complaints == []
