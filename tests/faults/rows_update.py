"""The schedule changes while the mesh plans: badly, often at once, and while the router dies."""

import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

from tests.faults import control
from tests.faults.trial import REBORN, Trial

TOKENS = 24
WRITERS, WRITES = 8, 5
LOADS = "improvement_rate_mapping"
BAD: tuple[tuple[dict[str, Any], str], ...] = (
    ({"policy": "best", "min_chunk": 7}, "policy"),
    ({"policy": "fixed-sp:3", "min_chunk": 7}, "policy"),
    ({"min_chunk": 7, "sp_size_candidates": [5]}, "sp_size_candidates"),
    ({"min_chunk": 7, "sp_size_candidates": [1, 0]}, "sp_size_candidates[1]"),
    ({"min_chunk": 7, LOADS: {"1": 0.1, "1.0": 0.2}}, f"{LOADS}.1.0"),
    ({"min_chunk": 7, LOADS: {"0.5": 1}}, f"{LOADS}.0.5"),
    ({"min_chunk": 7, "priced": {"order": "slope"}}, "priced.order"),
    ({"min_chunk": 7, "improvement_rat": 0.1}, "improvement_rat"),
)


def changes_while_it_plans(trial: Trial) -> None:
    """F33: in the middle of a plan, badly, and from many sides at once, while streams run."""
    request = trial.request(200, TOKENS)
    with _restored(trial) as door:
        mark = trial.arena.mark()
        trial.arm("router", "router.plan", "sleep(1.2)")
        stream = trial.send(request)
        trial.await_hit(mark, "router", "router.plan")
        # Asked again and again while the router stands still, and taken once.
        _change(door, {"policy": "fixed-sp:2"})
        running = [trial.start(request) for _ in range(2)]
        assert len(trial.arena.since(mark, "scheduled")) == 1
        for one in running:
            assert _sizes(one.planned["chunks"]) == [2]
        _refuse(door)
        _write_at_once(door)
        for each in (stream, *(one.stream for one in running)):
            trial.finish(each)
        for one in running:
            trial.assert_untouched(one)
    trial.notes.append(f"{len(BAD)} bad values, {WRITERS * WRITES} updates by {WRITERS} at once")


def router_dies_updating(trial: Trial) -> None:
    """F33: the router dies before or after it has changed the schedule, and once more later."""
    request = trial.request(200, TOKENS)
    with _restored(trial) as door:
        running = trial.start(request)
        running.stream.await_tokens(2)
        mark, before = trial.arena.mark(), trial.arena.pid("router")
        # Its first time is before the change, its second one before the answer.
        trial.arm("router", "router.update", "kill", trial.rng.choice((1, 2)))
        changed = _change(door, {"policy": "fixed-sp:2", LOADS: {"0.5": 0.3}})
        trial.await_hit(mark, "router", "router.update")
        trial.finish(running.stream)
        trial.assert_untouched(running)
        trial.assert_reborn("router", before)
        assert _in_force(door) == changed
        # Nobody but the gateway knows now what was answered.
        before = trial.arena.pid("router")
        moment = trial.signal("router", signal.SIGKILL)
        trial.answered(moment)
        trial.assert_reborn("router", before)
        assert _in_force(door, changed) == changed
        assert _sizes(trial.start(request).planned["chunks"]) == [2]


@contextmanager
def _restored(trial: Trial) -> Iterator[str]:
    """The operators' door; afterwards the schedule is again what it was before."""
    door = trial.arena.mesh.control
    before = _in_force(door)["schedule"]
    try:
        yield door
    finally:
        trial.disarm()
        trial.arena.await_complete()
        _change(door, before)


def _in_force(door: str, wanted: object = None) -> dict[str, Any]:
    """Schedule and version that the router tells, at once or as soon as they are as wanted."""
    deadline = time.monotonic() + 10.0
    while True:
        told = control.ask(f"{door}/update")
        found = {} if told is None else _essence(told)
        if found and (found == wanted or wanted is None or time.monotonic() > deadline):
            return found
        assert time.monotonic() < deadline, "nobody tells the schedule"
        time.sleep(0.1)


def _change(door: str, change: dict[str, Any]) -> dict[str, Any]:
    """Schedule and version that were answered; an operator tries again while nobody answers."""
    deadline = time.monotonic() + REBORN
    while True:
        status, told = control.post(f"{door}/update", change)
        if status == 200:
            return _essence(told)
        assert status in (0, 502, 503, 504), told
        assert time.monotonic() < deadline, "the schedule cannot be changed"
        time.sleep(0.1)


def _essence(told: dict[str, Any]) -> dict[str, Any]:
    """Without what changes by itself."""
    return {"schedule": told["schedule"], "version": told["state"]["version"]}


def _refuse(door: str) -> None:
    before = _in_force(door)
    for change, key in BAD:
        status, told = control.post(f"{door}/update", change)
        assert (status, told["error"]["param"]) == (400, key), told
        assert _in_force(door) == before, f"{change} has changed something"


def _write_at_once(door: str) -> None:
    """Every update is whole, and the newest one stays."""

    def write(writer: int) -> list[dict[str, Any]]:
        own = f"fixed-sp:{1 + writer % 2}"
        made = []
        for number in range(WRITES):
            change = {"policy": own, "min_chunk": 100 * writer + number + 1}
            made.append(_change(door, change))
            assert made[-1]["schedule"].items() >= change.items(), "somebody else's answer"
        return made

    with ThreadPoolExecutor(WRITERS) as pool:
        made = [one for each in pool.map(write, range(WRITERS)) for one in each]
    assert len({one["version"] for one in made}) == WRITERS * WRITES
    assert _in_force(door) == max(made, key=lambda one: int(one["version"]))


def _sizes(chunks: object) -> list[int]:
    return [int(chunk.partition(":")[0]) for chunk in str(chunks).split(" → ")]
