"""Router, gateway and broker that die: planning, half told, while streams run, at rest."""

import signal

from tests.faults.stream import Stream
from tests.faults.trial import Trial

TOKENS = 24


def router_dies_planning(trial: Trial) -> None:
    """F11: it has taken a request in and not planned it."""
    _router_dies(trial, "router.plan", 1)


def router_dies_half_way(trial: Trial) -> None:
    """F11: one member of the group knows of the chunk, the other does not."""
    _router_dies(trial, "router.issue", 2)


def router_dies_closing(trial: Trial) -> None:
    """F11: an attempt is over and its books are not closed."""
    _router_dies(trial, "router.end", 1)


def router_dies_while_streams_run(trial: Trial) -> None:
    """F11: running streams notice nothing; the next request has to wait for the new router."""
    running = [trial.start(trial.request(200, TOKENS)) for _ in range(2)]
    for one in running:
        one.stream.await_tokens(2)
    before = trial.arena.pid("router")
    moment = trial.signal("router", signal.SIGKILL)
    trial.answered(moment)
    for one in running:
        trial.finish(one.stream)
    # The old router's plans stand in the log as well.
    for one in running:
        trial.assert_untouched(one)
    trial.assert_reborn("router", before)


def gateway_dies(trial: Trial) -> None:
    """F12: nobody waits for its streams any more; all of them are let go."""
    streams = [trial.start(trial.request(200, TOKENS)).stream for _ in range(8)]
    streams[0].await_tokens(2)
    before = trial.arena.pid("gateway")
    moment = trial.signal("gateway", signal.SIGKILL)
    for stream in streams:
        assert stream.join().wrong, "a stream outlived its gateway"
        _is_beginning(trial, stream)
    trial.answered(moment)
    trial.assert_reborn("gateway", before)
    trial.notes.append(f"all was free {trial.arena.assert_quiescent():.1f} s after it was back")


def broker_dies_at_a_handshake(trial: Trial) -> None:
    """F35: a sender asks and gets no answer."""
    _broker_dies(trial, "broker.handshake")


def broker_dies_granting(trial: Trial) -> None:
    """F35: a backend is lent in its books only."""
    _broker_dies(trial, "broker.grant")


def broker_dies_while_kv_flows(trial: Trial) -> None:
    """F35: backends are lent, and in use."""
    _broker_dies(trial, "broker.release")


def broker_dies_idle(trial: Trial) -> None:
    """F35: with nothing lent."""
    before = trial.arena.pid("kv-transfer")
    trial.answered(trial.signal("kv-transfer", signal.SIGKILL))
    trial.assert_reborn("kv-transfer", before)


def _router_dies(trial: Trial, place: str, count: int) -> None:
    request = trial.request(200, 16, "2")
    mark, before = trial.arena.mark(), trial.arena.pid("router")
    trial.arm("router", place, "kill", count)
    stream = trial.send(request)
    moment = trial.await_hit(mark, "router", place)
    trial.finish(stream)
    trial.recovered(stream, moment)
    trial.assert_reborn("router", before)


def _broker_dies(trial: Trial, place: str) -> None:
    request = trial.request(200, 16, trial.rng.choice(("1", "2", "1:60,2")))
    mark, before = trial.arena.mark(), trial.arena.pid("kv-transfer")
    trial.arm("kv-transfer", place, "kill")
    others = [trial.start(trial.request(200, 16)) for _ in range(2)]
    stream = trial.send(request)
    moment = trial.await_hit(mark, "kv-transfer", place)
    trial.finish(stream)
    for one in others:
        trial.finish(one.stream)
    trial.recovered(stream, moment)
    trial.assert_reborn("kv-transfer", before)


def _is_beginning(trial: Trial, stream: Stream) -> None:
    expected = trial.arena.reference(stream.request).tokens
    got = stream.answer.tokens
    assert got == expected[: len(got)]
