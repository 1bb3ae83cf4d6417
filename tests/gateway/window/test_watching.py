import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
import msgspec
import pytest

from common.events import Happening, MeshState, Over
from common.messages import Events
from gateway.window import watching
from gateway.window.watching import MAX_BEHIND, MAX_WATCHERS, Place
from tests.gateway.bench import Bench, Client, accept
from tests.gateway.happenings import mesh_state, said, story
from tests.gateway.window.test_window import window


class Page:
    """What the board gets."""

    def __init__(self, answer: aiohttp.ClientResponse) -> None:
        self.answer = answer
        self.ids: list[str] = []
        self.clocks: list[dict] = []

    async def next(self) -> list[Happening] | int:
        """The next happenings, or how many are missing; clocks are put aside."""
        while True:
            fields = await self._message()
            data = json.loads(fields["data"])
            match fields.get("event"):
                case "clock":
                    self.clocks.append(data)
                case "hole":
                    return int(data["lost"])
                case None:
                    self.ids.append(fields["id"])
                    return msgspec.json.decode(fields["data"], type=list[Happening])

    async def _message(self) -> dict[str, str]:
        raw = (await self.answer.content.readuntil(b"\n\n")).decode()
        return dict(line.split(": ", 1) for line in raw.strip().splitlines())


@asynccontextmanager
async def watch(client: Client, query: str = "") -> AsyncIterator[Page]:
    async with client.session.get(f"{client.control}/tetris/events{query}") as answer:
        assert answer.status == 200
        assert answer.content_type == "text/event-stream"
        assert answer.headers["Cache-Control"] == "no-cache"
        yield Page(answer)


async def arrived(client: Client, *messages: Events) -> None:
    """Until the gateway has seen these."""
    for message in messages:
        client.mesh.send(message)
    # Members are shown once events have been read.
    text = ""
    while "tetris_improvement_rate 0.1" not in text:
        _, text, _ = await client.get("/metrics")


def test_a_page_gets_what_was_and_then_what_happens(bench: Bench) -> None:
    async def scenario(client: Client) -> None:
        before = [*story("a", 1.0), mesh_state(2.0)]
        await arrived(client, said(0, *before))
        async with watch(client) as page, watch(client, "?seconds=0") as live:
            assert await page.next() == before
            assert page.clocks[0]["model"] == "tiny"
            assert set(page.clocks[0]) == {"wall", "model", "version"}
            over = Over(3.0, "b", 1, "stop", 4)
            client.mesh.send(said(len(before), over))
            assert await page.next() == [over]
            assert await live.next() == [over]
            assert page.ids == [f"5-{len(before) - 1}", f"5-{len(before)}"]
            client.mesh.send(said(len(before) + 8, over))
            assert (await page.next(), await page.next()) == (7, [over])
            assert (await live.next(), await live.next()) == (7, [over])

    bench(accept, scenario)


def test_time_goes_on_while_nothing_happens(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "CLOCK", 0.02)
    monkeypatch.setattr(watching, "PAUSE", 0.01)

    async def scenario(client: Client) -> None:
        async with watch(client) as page:
            waiting = asyncio.get_running_loop().time() + 5
            while len(page.clocks) < 3:
                fields = await page._message()
                assert fields["event"] == "clock"
                page.clocks.append(json.loads(fields["data"]))
                assert asyncio.get_running_loop().time() < waiting
            walls = [clock["wall"] for clock in page.clocks]
            assert walls == sorted(set(walls))

    bench(accept, scenario)


def test_watchers_are_bounded_and_make_room_when_they_leave(bench: Bench) -> None:
    async def scenario(client: Client) -> None:
        pages = [watch(client) for _ in range(MAX_WATCHERS)]
        for page in pages:
            await page.__aenter__()
        url = f"{client.control}/tetris/events"
        async with client.session.get(url) as answer:
            assert answer.status == 503
            assert answer.headers["Retry-After"] == "5"
            assert (await answer.json())["error"]["message"] == "Too many watchers."
        await pages.pop().__aexit__(None, None, None)
        status = 503
        while status == 503:
            async with client.session.get(url) as answer:
                status = answer.status
        for page in pages:
            await page.__aexit__(None, None, None)

    bench(accept, scenario)


def test_a_wrong_span_is_refused(bench: Bench) -> None:
    async def scenario(client: Client) -> None:
        for bad in ("-1", "601", "nan", "x"):
            url = f"{client.control}/tetris/events?seconds={bad}"
            async with client.session.get(url) as answer:
                assert (answer.status, (await answer.json())["error"]["param"]) == (400, "seconds")
        assert (await client.get("/tetris/events"))[0] == 404

    bench(accept, scenario)


def test_streams_end_with_the_gateway(bench: Bench) -> None:
    async def scenario(client: Client) -> None:
        async with watch(client) as page:
            client.process.stopping.set()
            client.process.drained.set()
            # Ends, and does so with a proper last chunk instead of a broken connection.
            while await page.answer.content.readany():
                pass

    bench(accept, scenario)


# The place of one watcher


def parts(data: bytes) -> list[tuple[str, object]]:
    found = []
    for block in data.decode().split("\n\n")[:-1]:
        fields = dict(line.split(": ", 1) for line in block.splitlines())
        found.append((fields.get("event", "happenings"), json.loads(fields["data"])))
    return found


def states(count: int, start: float = 0.0) -> list[MeshState]:
    return [mesh_state(start + i) for i in range(count)]


def test_a_replay_comes_in_bounded_messages_and_is_not_taken_for_being_slow() -> None:
    seen, _ = window()
    told = [Over(float(i), "r", 1, "stop", 1) for i in range(MAX_BEHIND + 2000)]
    for first in range(0, len(told), 500):
        seen.receive(said(first, *told[first : first + 500]))
    place, sizes = Place(seen, 60.0), []
    while not place.is_live:
        ((kind, events),) = parts(place.next())
        assert kind == "happenings"
        sizes.append(len(events))
    assert sum(sizes) == len(told)
    assert max(sizes) == 1000
    assert place.next() == b""


def test_a_slow_watcher_skips_to_the_newest_and_is_told_how_much_it_missed() -> None:
    seen, _ = window()
    place = Place(seen, 0.0)
    told = [Over(float(i), "r", 1, "stop", 1) for i in range(MAX_BEHIND + 1)]
    for first in range(0, len(told), 1000):
        seen.receive(said(first, *told[first : first + 1000]))
    assert parts(place.next()) == [("hole", {"lost": MAX_BEHIND + 1})]
    seen.receive(said(len(told), told[0]))
    ((kind, events),) = parts(place.next())
    assert (kind, len(events)) == ("happenings", 1)


def test_what_is_forgotten_during_a_replay_is_a_hole() -> None:
    seen, _ = window()
    seen.receive(said(0, *story("a", 1.0)))
    place = Place(seen, 60.0)
    seen.history.forget(1e9)
    assert parts(place.next()) == [("hole", {"lost": len(story("a", 1.0))})]
    assert place.is_live
    assert place.next() == b""


def test_only_the_last_seconds_are_replayed() -> None:
    seen, _ = window()
    seen.receive(said(0, *states(3)))
    seen.clock.at += 100
    seen.receive(said(3, *states(2)))
    assert [len(events) for _, events in parts(Place(seen, 60.0).next())] == [2]
    assert [len(events) for _, events in parts(Place(seen, 101.0).next())] == [5]
    assert Place(seen, 0.0).next() == b""
