import asyncio
from pathlib import Path

import pytest

from tests.browser.scenes import SCENES
from tests.browser.watching import Watched, pictures, watch

INSIDE = "b.isDone && b.width > 12 && b.x > tetris.plot().left + 60"


@pytest.mark.parametrize(
    ("name", "scene", "more"),
    [
        ("light", "heavy", {"color_scheme": "light"}),
        ("dark", "large", {"color_scheme": "dark"}),
        (
            "phone",
            "heavy",
            {"color_scheme": "dark", "width": 390, "height": 844, "device_scale_factor": 2},
        ),
    ],
)
def test_the_pool_is_shown_without_complaints_or_requests_elsewhere(
    name: str, scene: str, more: dict, tmp_path: Path
) -> None:
    async def scenario(on: Watched) -> None:
        await on.open()
        await on.until("tetris.blocks().filter((b) => b.isDone).length > 50")
        await on.until("/[0-9] m?s/.test(document.getElementById('ttft').textContent)")
        await asyncio.sleep(1)
        theme = await on.page.evaluate("document.documentElement.dataset.theme")
        assert theme == more["color_scheme"]
        overflow = "document.documentElement.scrollWidth > document.documentElement.clientWidth"
        assert not await on.page.evaluate(overflow)
        path = pictures(tmp_path) / f"{name}.png"
        await on.page.screenshot(path=path)
        assert path.stat().st_size < 400_000

    watched = watch(scenario, scene, **more)
    assert watched.complaints == []
    assert watched.strangers() == []
    assert len(watched.requests) >= 2


def test_blocks_lie_where_their_members_and_times_are() -> None:
    async def scenario(on: Watched) -> None:
        await on.open()
        await on.until("tetris.blocks().some((b) => b.isPlanned)")
        plot = await on.page.evaluate("tetris.plot()")
        blocks = await on.page.evaluate("tetris.blocks()")
        known = [one for one in blocks if one["size"]]
        rows: dict[str, float] = {}
        for one in known:
            assert rows.setdefault(one["member"], one["y"]) == one["y"]
            if one["isDone"]:
                assert one["x"] + one["width"] <= plot["now"] + 2
            if one["isPlanned"]:
                assert one["x"] >= plot["now"] - 2
        groups: dict[tuple[str, int], list[dict]] = {}
        for one in known:
            groups.setdefault((one["request"], one["index"]), []).append(one)
        for group in groups.values():
            assert len(group) == group[0]["size"]
        assert any(len(group) > 1 for group in groups.values())

    watch(scenario)


def test_a_block_under_the_pointer_tells_its_plan_and_a_click_keeps_it() -> None:
    async def scenario(on: Watched) -> None:
        await on.open()
        one, x, y = await on.block(f"{INSIDE} && b.index > 0")
        await on.page.mouse.move(x, y)
        card = on.page.locator("#card")
        await card.wait_for(state="visible")
        await on.until("document.querySelectorAll('#card table').length === 2")
        text = await card.inner_text()
        plan = on.feed.planned(one["request"])
        assert one["request"] in text
        assert f"{plan.length:,} tokens in {len(plan.chunks)} chunks" in text
        assert plan.decode in text
        assert f"Phases on {one['member']}" in text
        assert "predicted" in text and "measured" in text and "shadow policy" in text
        chunks = on.page.locator("#card table").nth(0).locator("tr")
        assert await chunks.count() == 1 + len(plan.chunks)
        cells = await chunks.nth(1).locator("td").all_inner_texts()
        assert cells[2] == str(plan.chunks[0].size)
        chosen = await on.page.locator("#card tr.here").last.inner_text()
        assert "chosen" in chosen and chosen.startswith(str(plan.chunks[-1].size))
        await on.page.mouse.click(x, y)
        await on.page.mouse.move(5, 5)
        assert await card.is_visible()
        await on.page.keyboard.press("Escape")
        assert await card.is_hidden()

    watched = watch(scenario)
    assert watched.complaints == []


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ({"status": 404}, ""),
        ({"body": "no JSON"}, ""),
        ({"json": {"id": "r", "explanation_absent": "It is forgotten."}}, "It is forgotten."),
        ({"json": {"explanation": {"plan": {"candidates": 3}, "problem": "No."}}}, "No."),
    ],
)
def test_a_request_that_nobody_explains_is_shown_without_reasons(answer: dict, words: str) -> None:
    async def scenario(on: Watched) -> None:
        await on.page.route("**/tetris/requests/*", lambda route: route.fulfill(**answer))
        await on.open()
        one, x, y = await on.block(INSIDE)
        async with on.page.expect_response("**/tetris/requests/*"):
            await on.page.mouse.move(x, y)
        await asyncio.sleep(0.3)
        text = await on.page.locator("#card").inner_text()
        assert one["request"] in text
        assert words in text
        assert ("Why this plan" in text) == bool(words)

    watch(scenario)


def test_the_keyboard_goes_from_chunk_to_chunk() -> None:
    async def scenario(on: Watched) -> None:
        await on.open()
        await on.block(INSIDE)
        await on.page.locator("#live").focus()
        seen = set()
        for key in ("ArrowDown", "ArrowLeft", "ArrowLeft", "ArrowDown", "ArrowUp"):
            await on.page.keyboard.press(key)
            seen.add(await on.page.locator("#card").inner_text())
        assert len(seen) >= 3
        await on.page.keyboard.press("Enter")
        assert "Pinned" in await on.page.locator("#card").inner_text()

    watch(scenario)


def test_a_tap_on_a_phone_opens_the_card_within_the_screen() -> None:
    async def scenario(on: Watched) -> None:
        await on.open()
        _, x, y = await on.block("b.isDone && b.width > 8 && b.x > tetris.plot().left + 20")
        await on.page.touchscreen.tap(x, y)
        box = await on.page.locator("#card").bounding_box()
        assert box["x"] >= 0 and box["x"] + box["width"] <= 390
        assert box["y"] >= 0 and box["y"] + box["height"] <= 844

    watch(scenario, width=390, height=844, has_touch=True, is_mobile=True)


@pytest.mark.parametrize(
    ("scene", "words"),
    [("empty", "No prefill instance yet"), ("idle", "All instances are idle")],
)
def test_an_empty_picture_says_why(scene: str, words: str) -> None:
    async def scenario(on: Watched) -> None:
        await on.page.goto(on.url)
        await on.until(f"document.getElementById('notice').textContent.includes({words!r})")

    watched = watch(scenario, scene)
    assert watched.complaints == []


@pytest.mark.parametrize("scene", ["laptop", "overload", "waiting", "crowd"])
def test_every_size_and_load_fits_its_page(scene: str, tmp_path: Path) -> None:
    async def scenario(on: Watched) -> None:
        await on.open()
        await on.until("tetris.blocks().length > 3")
        rows = SCENES[scene].nodes * SCENES[scene].per_node
        assert (await on.page.evaluate("tetris.plot()"))["rows"] == rows
        overflow = "document.documentElement.scrollWidth > document.documentElement.clientWidth"
        assert not await on.page.evaluate(overflow)
        await on.page.screenshot(path=tmp_path / f"{scene}.png")

    watched = watch(scenario, scene)
    assert watched.complaints == []
