"""Processes that stand still and come back: too short to matter, too long, all at once."""

import signal
import time

from tests.faults.trial import Running, Trial

TOKENS = 40
LAYERS = 30
SHORT, LONG, PAUSE = 0.8, 10.0, 5.0
"""Seconds; a member counts as lost after 1.5."""


def worker_stops_shortly(trial: Trial) -> None:
    """F13: shorter than it takes to be lost: nothing happens."""
    running = trial.start(trial.request(200, TOKENS, "2"))
    victim = trial.rng.choice([*running.members, running.decode])
    moment = _stand_still(trial, [victim], SHORT)
    trial.finish(running.stream)
    trial.recovered(running.stream, moment)
    trial.assert_untouched(running)


def prefill_is_a_zombie(trial: Trial) -> None:
    """F14: a sender stands still in a hand-over until all of it was given to others."""
    running = trial.start(trial.request(200, TOKENS, "1"))
    _is_a_zombie(trial, running, running.members[0], trial.rng.choice(("kv.send", "chunk.layer")))


def decode_is_a_zombie(trial: Trial) -> None:
    """F14: a decode instance stands still in a stream, and then knows of it still."""
    running = trial.start(trial.request(200, TOKENS, "1"))
    _is_a_zombie(trial, running, running.decode, trial.rng.choice(("kv.receive", "decode.step")))


def router_stops(trial: Trial) -> None:
    """F15: when it wakes it has heard of nobody for long, and must not count that."""
    running = [trial.start(trial.request(200, TOKENS)) for _ in range(2)]
    for one in running:
        one.stream.await_tokens(1)
    lives, mark = _lives(trial), trial.arena.mark()
    moment = _stand_still(trial, ["router"], LONG)
    trial.answered(moment + LONG)
    for one in running:
        trial.finish(one.stream)
        trial.assert_untouched(one)
    assert _lives(trial) == lives, "somebody was taken for dead"
    assert not trial.arena.since(mark, "joining again", why="lost member")


def prefill_loop_hangs(trial: Trial) -> None:
    """F16: the event loop of a prefill worker stands still, its threads do not."""
    requests = [trial.request(200, 16, "2") for _ in range(2)]
    mark = trial.arena.mark()
    victim = trial.rng.choice(trial.arena.names("prefill-worker"))
    trial.arm(victim, "chunk.received", "sleep(6)")
    started = [trial.start(request) for request in requests]
    moment = trial.await_hit(mark, victim, "chunk.received")
    for one in started:
        trial.finish(one.stream)
        trial.recovered(one.stream, moment)
    trial.arena.await_complete()


def decode_loop_hangs(trial: Trial) -> None:
    """F16: the event loop of a decode worker stands still, its threads do not."""
    running = trial.start(trial.request(200, TOKENS))
    trial.arm(running.decode, "decode.admit", "sleep(6)")
    moment = trial.await_hit(running.mark, running.decode, "decode.admit")
    trial.finish(running.stream)
    trial.recovered(running.stream, moment)
    trial.arena.await_complete()


def all_stop(trial: Trial) -> None:
    """F29: the machine stands still for a while; nobody is taken for dead."""
    running = [trial.start(trial.request(200, TOKENS)) for _ in range(2)]
    for one in running:
        one.stream.await_tokens(1)
    lives, mark = _lives(trial), trial.arena.mark()
    moment = _stand_still(trial, list(trial.arena.roles), PAUSE)
    for one in running:
        trial.finish(one.stream)
        trial.recovered(one.stream, moment + PAUSE)
    trial.arena.await_complete()
    assert _lives(trial) == lives, "a process was started again"
    assert not trial.arena.since(mark, "joining again", why="lost member")
    for one in running:
        trial.assert_untouched(one)


def _is_a_zombie(trial: Trial, running: Running, victim: str, place: str) -> None:
    before = trial.arena.pid(victim)
    trial.arm(victim, place, "stop", trial.rng.randint(1, LAYERS))
    moment = trial.await_hit(running.mark, victim, place)
    time.sleep(LONG)
    trial.signal(victim, signal.SIGCONT)
    trial.finish(running.stream)
    trial.recovered(running.stream, moment)
    trial.assert_planned_again(running)
    trial.arena.await_event(running.mark, "joining again", name=victim, why="lost member")
    trial.arena.await_complete()
    assert trial.arena.pid(victim) == before


def _stand_still(trial: Trial, names: list[str], seconds: float) -> float:
    moment = max(trial.signal(name, signal.SIGSTOP) for name in names)
    try:
        time.sleep(seconds)
    finally:
        for name in names:
            trial.signal(name, signal.SIGCONT)
    return moment


def _lives(trial: Trial) -> dict[str, int]:
    return dict(trial.arena.mesh.pids())
