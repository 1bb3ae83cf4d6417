import asyncio

import pytest

from tests.simulation.virtual_loop import Deadlock, VirtualLoop, run


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
