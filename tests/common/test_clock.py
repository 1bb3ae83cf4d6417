import asyncio
import time

from common.clock import Clock, LoopClock, MonotonicClock
from tests.simulation.virtual_loop import run


def test_loop_clock_follows_virtual_time():
    async def main(clock: Clock) -> float:
        before = clock.now()
        await clock.sleep(1800.0)
        return clock.now() - before

    real = time.monotonic()
    assert run(main(LoopClock())) == 1800.0
    assert time.monotonic() - real < 60


def test_monotonic_clock_follows_the_machine():
    async def main(clock: Clock) -> tuple[float, float]:
        before = clock.now()
        await clock.sleep(0.01)
        return before, clock.now()

    real = time.monotonic()
    before, after = asyncio.run(main(MonotonicClock()))
    assert real <= before
    assert before + 0.009 <= after <= time.monotonic()


def test_wall_clocks_tell_the_date_or_the_virtual_time():
    async def virtual() -> tuple[float, float]:
        return LoopClock().wall(), LoopClock().now()

    wall, now = run(virtual())
    assert wall == now
    before = time.time()  # noqa: TID251
    assert before <= MonotonicClock().wall() <= time.time()  # noqa: TID251
