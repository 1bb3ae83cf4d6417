"""Meshes with more to do than they can, and meshes that change while they serve."""

import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from tests.faults import control
from tests.faults.arena import NUM_PROMPTS, prompt
from tests.faults.load import Load, Verdict, capacity, counts
from tests.faults.stream import Request, Stream, now
from tests.faults.trial import Trial
from tests.processes.real_mesh import ROOT

MANY = 50
OVERLOAD = 3.0
"""Times the capacity."""
OVERLOADED = 30.0
"""Seconds."""
NEWCOMER = "prefill-worker-9"


def decode_has_little_kv(trial: Trial) -> None:
    """F25: fifty requests for a decode instance that holds five; they make room for each other."""
    arena = trial.arena
    requests = [Request(prompt(index % 3, 40), 48, trial.seed) for index in range(MANY)]
    for request in requests[:3]:
        arena.reference(request)
    mark, started = arena.mark(), time.monotonic()
    streams = [Stream(arena.mesh.url, request) for request in requests]
    for stream in streams:
        trial.finish(stream)
    seconds = time.monotonic() - started
    evicted = len(arena.since(mark, "attempt failed", evicted=True))
    trial.notes.append(f"{evicted} evictions, {MANY} answers in {seconds:.0f} s")
    assert evicted, "nobody had to make room: the row proves nothing"


def is_overloaded(trial: Trial) -> None:
    """F30: three times more than it can for half a minute; the rest is refused, nothing stays."""
    arena, requests = trial.arena, _requests(trial)
    can = capacity(arena, requests, 8.0, 6)
    mark = arena.mark()
    load = Load(arena, requests, OVERLOAD * can, trial.rng.randrange(2**31))
    deepest, until = 0, time.monotonic() + OVERLOADED
    while time.monotonic() < until:
        shown = control.figures(arena.mesh.url, "tetris_gateway_open_requests")
        deepest = max(deepest, int(max(shown.values(), default=0)))
        time.sleep(0.5)
    verdicts = load.stop()
    trial.recoveries.append(arena.assert_quiescent())
    trial.notes.append(f"capacity {can:.2f}/s, at most {deepest} open, {counts(verdicts)}")
    _assert_kinds(verdicts, "whole", "refused")
    assert any(one.kind == "refused" for one in verdicts), "it was never full"
    assert not arena.since(mark, "joining again", why="lost member"), "somebody was taken for dead"


def restarts_one_by_one(trial: Trial) -> None:
    """F31: every service is told to stop, hands over, and is started again; nobody notices."""
    arena = trial.arena
    load = Load(arena, _requests(trial), 0.4, trial.rng.randrange(2**31))
    away: dict[str, tuple[float, float]] = {}
    try:
        for name in arena.roles:
            before = arena.pid(name)
            moment = trial.signal(name, signal.SIGTERM)
            _await_end(before)
            trial.assert_reborn(name, before)
            away[name] = (moment, now())
            trial.recoveries.append(away[name][1] - moment)
    finally:
        verdicts = load.stop()
    trial.notes.append(counts(verdicts))
    # There is one gateway only: while it is away nobody listens, or nobody is ready.
    begin, end = away["gateway"]
    others = [one for one in verdicts if not begin <= one.started <= end or one.kind == "cut"]
    _assert_kinds(others, "whole")


def grows_and_shrinks(trial: Trial) -> None:
    """A prefill worker joins and gets chunks, another one drains for good; no request fails."""
    arena = trial.arena
    load = Load(arena, _requests(trial), 0.5, trial.rng.randrange(2**31))
    leaver = trial.rng.choice(arena.names("prefill-worker"))
    with _newcomer(trial):
        mark = arena.mark()
        _await_part(trial, mark, NEWCOMER)
        before = arena.pid(leaver)
        _drain(trial, leaver)
        _await_end(before)
        del arena.roles[leaver]
        mark = arena.mark()
        _await_part(trial, mark, NEWCOMER)
        verdicts = load.stop()
        assert not any(leaver in e["members"].split() for e in arena.since(mark, "planned"))
        arena.assert_quiescent()
    trial.notes.append(f"{NEWCOMER} came, {leaver} went: {counts(verdicts)}")
    _assert_kinds(verdicts, "whole")


def _requests(trial: Trial) -> list[Request]:
    given = trial.request(200, 16)
    return [replace(given, prompt=prompt(index, 200)) for index in range(NUM_PROMPTS)]


def _assert_kinds(verdicts: list[Verdict], *allowed: str) -> None:
    others = [verdict for verdict in verdicts if verdict.kind not in allowed]
    assert not others, f"{counts(others)}: {others[0].why}"
    assert any(verdict.kind == "whole" for verdict in verdicts)


def _await_end(pid: int, limit: float = 90.0) -> None:
    deadline = time.monotonic() + limit
    while Path(f"/proc/{pid}").exists():
        assert time.monotonic() < deadline, f"process {pid} does not leave"
        time.sleep(0.05)


def _await_part(trial: Trial, mark: int, name: str, limit: float = 90.0) -> None:
    deadline = time.monotonic() + limit
    arena = trial.arena
    while not any(name in e["members"].split() for e in arena.since(mark, "planned")):
        assert time.monotonic() < deadline, f"{name} gets nothing to do"
        time.sleep(0.1)


@contextmanager
def _newcomer(trial: Trial) -> Iterator[None]:
    """One more prefill worker, configured as the first one but for its name."""
    arena = trial.arena
    words = Path(f"/proc/{arena.pid(arena.names('prefill-worker')[0])}/cmdline").read_bytes()
    argv = [word.decode() for word in words.split(b"\0") if word]
    given = Path(argv[argv.index("--config") + 1])
    with tempfile.TemporaryDirectory() as directory:
        own = Path(directory, "newcomer.toml")
        own.write_text(given.read_text().replace(f'"{given.stem}"', f'"{NEWCOMER}"'))
        command = [sys.executable, "-m", "compose.cli", "service", "prefill-worker"]
        process = subprocess.Popen(
            [*command, "--config", str(own)], cwd=ROOT, stderr=subprocess.DEVNULL
        )
        arena.roles[NEWCOMER] = "prefill-worker"
        try:
            yield
        finally:
            del arena.roles[NEWCOMER]
            process.send_signal(signal.SIGTERM)
            assert process.wait(60) in (0, 143)


def _drain(trial: Trial, name: str) -> None:
    command = [sys.executable, "-m", "compose.cli", "drain", name]
    door = trial.arena.mesh.control
    done = subprocess.run([*command, "--url", door], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
