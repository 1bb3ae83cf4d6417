"""Prefill workers that die, fall silent or are slow, in every phase of a prompt."""

import signal
import threading
import time

from tests.faults.trial import Running, Trial

LAYERS = 30
ALONE, TOGETHER, JOINING, THREE = "1", "2", "1:60,2", "1:60,1:60,2"


def dies_while_chunks_are_queued(trial: Trial) -> None:
    """F1: a member goes while the chunk waits for its turn behind others."""
    request = trial.request(200, 16, TOGETHER)
    blockers = [trial.start(trial.request(300, 4, ALONE)) for _ in range(3)]
    queued = trial.start(request)
    victim = trial.rng.choice(queued.members)
    before = trial.arena.pid(victim)
    moment = trial.signal(victim, signal.SIGKILL)
    for one in (*blockers, queued):
        trial.finish(one.stream)
    trial.recovered(queued.stream, moment)
    trial.assert_planned_again(queued)
    trial.assert_reborn(victim, before)


def dies_in_a_ring(trial: Trial) -> None:
    """F2: a member of a ring goes in the middle of a chunk."""
    place = trial.rng.choice(("ring.step", "chunk.layer"))
    _member_dies(trial, TOGETHER, place, trial.rng.randint(1, LAYERS - 1))


def dies_with_history(trial: Trial) -> None:
    """F3: the holder of the first chunk goes when the second begins, or is done."""
    running = trial.start(trial.request(200, 16, THREE))
    place, count = trial.rng.choice((("chunk.start", 2), ("chunk.layer", LAYERS + 5)))
    _dies(trial, running, running.members[0], place, count)


def dies_while_balancing(trial: Trial) -> None:
    """F4: one side of the history's way to a new member goes."""
    _member_dies(trial, JOINING, "balance.layer", trial.rng.randint(1, LAYERS))


def dies_while_sending(trial: Trial) -> None:
    """F5: the sender goes in the middle of the hand-over."""
    plan = trial.rng.choice((ALONE, TOGETHER))
    _member_dies(trial, plan, "kv.send", trial.rng.randint(1, LAYERS))


def dies_before_the_first_token(trial: Trial) -> None:
    """F5, its end: the last token's owner goes before it tells the first token."""
    running = trial.start(trial.request(200, 16, ALONE))
    _dies(trial, running, running.members[0], "token.first", 1)


def falls_silent_after_the_grant(trial: Trial) -> None:
    """F7: the sender has its backend and sends nothing, longer than it may."""
    running = trial.start(trial.request(200, 16, ALONE))
    other = trial.start(trial.request(200, 16, ALONE))
    mark, victim = running.mark, running.members[0]
    trial.arm(victim, "kv.send", "sleep(10)", trial.rng.randint(1, LAYERS))
    moment = trial.await_hit(mark, victim, "kv.send")
    trial.finish(other.stream)
    trial.finish(running.stream)
    trial.recovered(running.stream, moment)


def is_slow_in_every_layer(trial: Trial) -> None:
    """F17: one worker takes a quarter of a second more for each layer."""
    trial.request(200, 16)
    slow = trial.rng.choice(trial.arena.names("prefill-worker"))
    trial.arena.mesh.arm(slow, "chunk.layer=sleep(0.25)")
    try:
        _serve_beside(trial, slow)
    finally:
        trial.arena.mesh.arm(slow, "")


def runs_every_other_moment(trial: Trial) -> None:
    """F17: one worker is stopped for 0.3 s of each 0.6 s."""
    trial.request(200, 16)
    slow = trial.rng.choice(trial.arena.names("prefill-worker"))
    over = threading.Event()

    def limp() -> None:
        while not over.wait(0.3):
            trial.arena.signal(slow, signal.SIGSTOP)
            time.sleep(0.3)
            trial.arena.signal(slow, signal.SIGCONT)

    limping = threading.Thread(target=limp, daemon=True)
    limping.start()
    try:
        _serve_beside(trial, slow)
    finally:
        over.set()
        limping.join()


def _serve_beside(trial: Trial, slow: str) -> None:
    started = [trial.start(trial.request(200, 16)) for _ in range(6)]
    for one in started:
        trial.finish(one.stream)
    share = sum(slow in one.members for one in started)
    again = sum(trial.attempts(one) > 1 for one in started)
    trial.notes.append(f"{slow} had part in {share} of {len(started)} plans, {again} planned again")


def _member_dies(trial: Trial, plan: str, place: str, count: int) -> None:
    running = trial.start(trial.request(200, 16, plan))
    _dies(trial, running, trial.rng.choice(running.members), place, count)


def _dies(trial: Trial, running: Running, victim: str, place: str, count: int) -> None:
    before = trial.arena.pid(victim)
    trial.arm(victim, place, "kill", count)
    moment = trial.await_hit(running.mark, victim, place)
    trial.finish(running.stream)
    trial.recovered(running.stream, moment)
    trial.assert_planned_again(running)
    trial.assert_reborn(victim, before)
