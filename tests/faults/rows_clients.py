"""Clients that leave in every phase, and one that does not read."""

import time
from itertools import pairwise

from tests.faults.arena import prompt
from tests.faults.quiescence import await_quiet, held
from tests.faults.stream import Request, Stream
from tests.faults.trial import Running, Trial

LAYERS = 30
FREED = 20.0
"""Seconds in which all of a request must be free; one layer and one second are expected."""
UNREAD = 60.0
"""Seconds in which a stream that nobody reads must have been dropped."""


def leaves_queued(trial: Trial) -> None:
    """F24: while its chunk waits behind others."""
    request = trial.request(200, 16, "2")
    blockers = [trial.start(trial.request(300, 4, "1")) for _ in range(3)]
    _leave(trial, trial.start(request))
    for one in blockers:
        trial.finish(one.stream)


def leaves_in_a_chunk(trial: Trial) -> None:
    """F24: while its prompt is computed."""
    _leaves(trial, "2", "chunk.layer")


def leaves_while_balancing(trial: Trial) -> None:
    """F24: while history goes to a new member."""
    _leaves(trial, "1:60,2", "balance.layer")


def leaves_in_the_transfer(trial: Trial) -> None:
    """F24: while its KV goes to decode."""
    _leaves(trial, "1", "kv.send")


def leaves_in_decode(trial: Trial) -> None:
    """F24: in the middle of its answer."""
    running = trial.start(trial.request(200, 40))
    running.stream.await_tokens(trial.rng.randint(1, 20))
    _leave(trial, running)


def reads_nothing(trial: Trial) -> None:
    """F23: what it does not read is dropped in the end; others are served as ever."""
    slow = Request(prompt(0, 60), 500, trial.seed, top=20)
    stream = Stream(trial.arena.mesh.url, slow, pause=3600.0, receive_buffer=4096)
    trial.answered(stream.started)
    other = trial.start(trial.request(200, 40))
    trial.finish(other.stream)
    gaps = [after - before for before, after in pairwise(other.stream.answer.times)]
    trial.notes.append(f"longest gap of the other stream {max(gaps):.2f} s")
    started = time.monotonic()
    arena = trial.arena
    await_quiet(lambda: held(arena.mesh.url, arena.mesh.control), UNREAD + 40.0)
    trial.notes.append(f"all was free after {time.monotonic() - started:.0f} s")
    stream.hurry()
    assert not stream.join().dones, "the stream was served to its end all the same"


def _leaves(trial: Trial, plan: str, place: str) -> None:
    running = trial.start(trial.request(200, 16, plan))
    victim = trial.rng.choice(running.members)
    trial.arm(victim, place, "sleep(0.2)", trial.rng.randint(1, LAYERS - 1))
    trial.await_hit(running.mark, victim, place)
    _leave(trial, running)


def _leave(trial: Trial, running: Running) -> None:
    running.stream.leave(reset=trial.rng.random() < 0.5)
    arena = trial.arena

    def still() -> list[str]:
        return [what for what in held(arena.mesh.url, arena.mesh.control) if running.name in what]

    trial.recoveries.append(await_quiet(still, FREED))
