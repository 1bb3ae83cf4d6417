import asyncio

import pytest

from gateway.mesh.bell import Bell


def test_everybody_who_rings_is_heard_once_in_order() -> None:
    async def scenario() -> None:
        bell: Bell[str] = Bell()
        for who in "abac":
            bell.ring(who)
        assert await bell.heard() == ["a", "b", "c"]
        bell.ring("a")
        assert await bell.heard() == ["a"]

    asyncio.run(scenario())


def test_who_rings_while_a_wait_ends_is_heard_by_the_next() -> None:
    async def scenario() -> None:
        bell: Bell[str] = Bell()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await bell.heard()
        bell.ring("a")
        assert await bell.heard() == ["a"]

    asyncio.run(scenario())


def test_a_nudge_wakes_who_waits_and_brings_nobody() -> None:
    async def scenario() -> None:
        bell: Bell[str] = Bell()
        bell.nudge()
        assert await bell.heard() == []
        bell.nudge()
        bell.ring("a")
        assert await bell.heard() == ["a"]

    asyncio.run(scenario())
