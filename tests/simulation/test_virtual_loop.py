import asyncio
from contextvars import copy_context

import pytest

from tests.simulation.virtual_loop import Deadlock, Life, VirtualLoop, current_life, run


def test_timers_fire_in_order_and_at_their_time():
    async def main() -> list[tuple[float, str]]:
        seen: list[tuple[float, str]] = []
        loop = asyncio.get_running_loop()

        async def wake(after: float, name: str) -> None:
            await asyncio.sleep(after)
            seen.append((loop.time(), name))

        async with asyncio.TaskGroup() as group:
            for after, name in ((3.0, "c"), (0.5, "a"), (1.25, "b")):
                group.create_task(wake(after, name))
        return seen

    assert run(main()) == [(0.5, "a"), (1.25, "b"), (3.0, "c")]


def test_a_wait_that_nothing_ends_is_reported_at_once():
    async def main() -> None:
        await asyncio.get_running_loop().create_future()

    # Not `run`, whose limit is a timer to jump to.
    with pytest.raises(Deadlock), asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(main())


def test_a_run_ends_at_its_virtual_limit():
    async def main() -> None:
        await asyncio.sleep(101.0)

    with pytest.raises(TimeoutError):
        run(main(), limit=100.0)


def test_a_frozen_life_stands_still_and_goes_on_after_the_thaw():
    async def main() -> list[tuple[float, str]]:
        seen: list[tuple[float, str]] = []
        loop, life = asyncio.get_running_loop(), Life("zombie")

        async def beat(name: str) -> None:
            for _ in range(4):
                await asyncio.sleep(1.0)
                seen.append((loop.time(), name))

        async with asyncio.TaskGroup() as group:
            group.create_task(beat("zombie"), context=life.context)
            group.create_task(beat("other"))
            await asyncio.sleep(1.5)
            life.freeze()
            await asyncio.sleep(5.0)
            life.thaw()
        return seen

    seen = run(main())
    assert [time for time, name in seen if name == "other"] == [1.0, 2.0, 3.0, 4.0]
    assert [time for time, name in seen if name == "zombie"] == [1.0, 6.5, 7.5, 8.5]


def test_what_a_frozen_life_waits_for_reaches_it_late_and_a_cancelled_timer_never():
    async def main() -> list[str]:
        seen: list[str] = []
        queue: asyncio.Queue[str] = asyncio.Queue()
        loop, life = asyncio.get_running_loop(), Life("zombie")

        async def take() -> None:
            while (item := await queue.get()) != "end":
                assert current_life() is life
                seen.append(item)

        async with asyncio.TaskGroup() as group:
            group.create_task(take(), context=life.context)
            timer = loop.call_later(0.5, seen.append, "timer", context=life.context)
            await asyncio.sleep(0.1)
            life.freeze()
            queue.put_nowait("late")
            await asyncio.sleep(1.0)
            assert seen == []
            timer.cancel()
            life.thaw()
            queue.put_nowait("end")
        return seen

    assert run(main()) == ["late"]


def test_who_is_not_frozen_takes_what_a_frozen_life_sent_before():
    async def main() -> list[float]:
        seen: list[float] = []
        loop, life = asyncio.get_running_loop(), Life("zombie")
        neutral = copy_context()
        life.context.run(loop.call_later, 1.0, lambda: seen.append(loop.time()), context=neutral)
        life.freeze()
        await asyncio.sleep(2.0)
        assert current_life() is None
        return seen

    assert run(main()) == [1.0]
