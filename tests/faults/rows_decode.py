"""Decode workers that die: while KV arrives, before admission, in the middle of a stream."""

import signal

from tests.faults.trial import Running, Trial

LAYERS = 30
TOKENS = 24


def dies_while_receiving(trial: Trial) -> None:
    """F6: the receiver goes in the middle of the hand-over."""
    _dies(trial, "kv.receive", trial.rng.randint(1, LAYERS))


def dies_before_admission(trial: Trial) -> None:
    """F8: everything has been transferred, nothing is admitted yet."""
    _dies(trial, trial.rng.choice(("kv.commit", "decode.admit")), 1)


def dies_in_a_stream(trial: Trial) -> None:
    """F9: at the first, second, middle or last token of a stream."""
    _dies(trial, "decode.step", trial.rng.choice((1, 2, TOKENS // 2, TOKENS - 1)))


def dies_with_its_end_untold(trial: Trial) -> None:
    """F9, its end: the last token is out, the end is not."""
    running = _start(trial)
    before = trial.arena.pid(running.decode)
    trial.arm(running.decode, "decode.end", "kill")
    trial.await_hit(running.mark, running.decode, "decode.end")
    trial.finish(running.stream)
    trial.assert_reborn(running.decode, before)


def all_die(trial: Trial) -> None:
    """F10: no decode instance is left until the launcher has started them again."""
    running = [_start(trial) for _ in range(2)]
    for one in running:
        one.stream.await_tokens(2)
    victims = {name: trial.arena.pid(name) for name in trial.arena.names("decode-worker")}
    moment = max(trial.signal(name, signal.SIGKILL) for name in victims)
    for one in running:
        trial.finish(one.stream)
        trial.recovered(one.stream, moment)
    for one in running:
        trial.assert_planned_again(one)
    for name, before in victims.items():
        trial.assert_reborn(name, before)


def _start(trial: Trial) -> Running:
    return trial.start(trial.request(200, TOKENS))


def _dies(trial: Trial, place: str, count: int) -> None:
    running = _start(trial)
    before = trial.arena.pid(running.decode)
    trial.arm(running.decode, place, "kill", count)
    moment = trial.await_hit(running.mark, running.decode, place)
    trial.finish(running.stream)
    trial.recovered(running.stream, moment)
    trial.assert_planned_again(running)
    trial.assert_reborn(running.decode, before)
