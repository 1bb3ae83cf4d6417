"""Two faults at once."""

import signal

from tests.faults.trial import Trial

TOKENS = 24


def decode_dies_while_prefill_recovers(trial: Trial) -> None:
    """F34: a ring member goes, and while its request is prefilled again a decode instance too."""
    running = trial.start(trial.request(200, TOKENS, "2"))
    other = trial.start(trial.request(200, TOKENS))
    victim = trial.rng.choice(running.members)
    lives = {name: trial.arena.pid(name) for name in (victim, other.decode)}
    trial.arm(victim, "ring.step", "kill", trial.rng.randint(1, 20))
    trial.await_hit(running.mark, victim, "ring.step")
    moment = trial.signal(other.decode, signal.SIGKILL)
    for one in (running, other):
        trial.finish(one.stream)
        trial.recovered(one.stream, moment)
    trial.assert_planned_again(running)
    for name, before in lives.items():
        trial.assert_reborn(name, before)


def router_dies_while_a_stream_recovers(trial: Trial) -> None:
    """F34: a decode instance goes in the middle of a stream, and the router with it."""
    running = trial.start(trial.request(200, TOKENS))
    running.stream.await_tokens(trial.rng.randint(1, TOKENS - 4))
    lives = {name: trial.arena.pid(name) for name in (running.decode, "router")}
    trial.signal(running.decode, signal.SIGKILL)
    moment = trial.signal("router", signal.SIGKILL)
    trial.finish(running.stream)
    trial.recovered(running.stream, moment)
    for name, before in lives.items():
        trial.assert_reborn(name, before)


def broker_and_sender_die(trial: Trial) -> None:
    """F34: whoever lends the backend and whoever has it."""
    running = trial.start(trial.request(200, TOKENS, "1"))
    victim = running.members[0]
    lives = {name: trial.arena.pid(name) for name in (victim, "kv-transfer")}
    trial.arm(victim, "kv.send", "kill", trial.rng.randint(1, 29))
    trial.await_hit(running.mark, victim, "kv.send")
    moment = trial.signal("kv-transfer", signal.SIGKILL)
    trial.finish(running.stream)
    trial.recovered(running.stream, moment)
    trial.assert_planned_again(running)
    for name, before in lives.items():
        trial.assert_reborn(name, before)
