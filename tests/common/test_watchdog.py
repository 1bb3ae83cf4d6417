import asyncio
import os
import signal
import subprocess
import sys
import time

from common.watchdog import Pulse, watched

PROGRAM = """
import asyncio, os, sys, time
from common.watchdog import watched

def end(place):
    sys.stderr.write(place)
    sys.stderr.flush()
    os._exit(7)

def hang():
    time.sleep(60)

async def main():
    with watched(asyncio.get_running_loop(), end, tick=0.02):
        await asyncio.sleep(0.5)
        print("alive", flush=True)
        if sys.argv[1] == "hang":
            hang()
        await asyncio.sleep(1.0)

asyncio.run(main())
"""


def program(what: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, what],
        env=os.environ | {"PYTHONPATH": "."},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_only_silence_over_consecutive_ticks_counts():
    asked: list[int] = []
    pulse = Pulse(lambda: asked.append(1), limit=3)
    assert [pulse.tick() for _ in range(3)] == [False] * 3
    assert asked == [1]
    pulse.answer()
    assert [pulse.tick() for _ in range(4)] == [False, False, False, True]
    assert asked == [1, 1]


def test_a_loop_that_is_let_hang_is_told_again_after_as_many_ticks():
    pulse = Pulse(lambda: None, limit=2)
    assert [pulse.tick() for _ in range(6)] == [False, False, True, False, True, False]


def test_a_loop_that_hangs_ends_the_process_and_the_place_is_told():
    process = program("hang")
    _, said = process.communicate(timeout=60)
    assert process.returncode == 7
    assert said.endswith(" in hang")


def test_a_process_that_was_stopped_as_a_whole_goes_on():
    process = program("live")
    assert process.stdout is not None
    assert process.stdout.readline() == "alive\n"
    process.send_signal(signal.SIGSTOP)
    time.sleep(0.5)
    process.send_signal(signal.SIGCONT)
    _, said = process.communicate(timeout=60)
    assert (process.returncode, said) == (0, "")


def test_nothing_of_it_is_left_when_the_loop_ends():
    async def main() -> None:
        with watched(asyncio.get_running_loop(), lambda _: None, tick=60.0):
            await asyncio.sleep(0)

    before = time.monotonic()
    asyncio.run(main())
    assert time.monotonic() - before < 10
