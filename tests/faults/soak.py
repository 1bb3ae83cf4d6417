"""A long run under load and random faults: `python -m tests.faults.soak --minutes 20 --load 0.6`.

Exit status 1 when a request is stuck, failed or answered with other tokens, or when anything is
still held at the end. Memory is reported.
"""

import argparse
import json
import random
import signal
import sys
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field

from tests.faults.arena import Arena, arena, prompt
from tests.faults.load import Load, Verdict, capacity
from tests.faults.picture import Panel, draw
from tests.faults.sample import Sample, Sampler, growth
from tests.faults.stream import NONE, Request, now
from tests.faults.suite import BUILD

FAULT_EVERY = 10.0
"""Seconds from the start of one fault to that of the next."""
LEAVERS = 0.05
"""Share of clients that go away before the end."""
CAPACITY = 30.0
"""Seconds for which the capacity is measured."""
GOOD = ("whole", "left")
AWAY = ("unreachable", "refused", "cut")
"""What may become of a request as well when the one gateway has a fault: it owns the streams."""
BACK = 20.0
"""Seconds after a fault in which that is its doing: up to 6 stopped, then a start."""
SIZES = ((40, 8), (120, 16), (300, 24), (600, 16))
"""Tokens of prompt and answer."""


@dataclass(frozen=True)
class Fault:
    """What was done to whom; `at` is the wall clock's."""

    at: float
    what: str
    whom: str


@dataclass
class Nemesis:
    """Does something bad every few seconds, in a thread, until stopped."""

    arena: Arena
    rng: random.Random
    faults: list[Fault] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def stop(self) -> list[Fault]:
        """No more faults; everything that stood still runs again."""
        self._over.set()
        self._thread.join()
        return self.faults

    def _run(self) -> None:
        while not self._over.wait(FAULT_EVERY):
            pids = self.arena.mesh.pids()
            alive = [name for name in self.arena.roles if name in pids]
            if not alive:
                continue
            whom = self.rng.choice(alive)
            acts: list[Callable[[str], str]] = [self._kill, self._kill, self._pause, self._term]
            at, what = now(), self.rng.choice(acts)(whom)
            self.faults.append(Fault(at, what, whom))

    def _kill(self, whom: str) -> str:
        self.arena.signal(whom, signal.SIGKILL)
        return "kill"

    def _term(self, whom: str) -> str:
        self.arena.signal(whom, signal.SIGTERM)
        return "restart"

    def _pause(self, whom: str) -> str:
        seconds = self.rng.choice((0.5, 1.0, 3.0, 6.0))
        self.arena.signal(whom, signal.SIGSTOP)
        time.sleep(seconds)
        self.arena.signal(whom, signal.SIGCONT)
        return f"stop for {seconds:g} s"


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status 1 when anything was lost, changed, stuck or left behind."""
    parser = argparse.ArgumentParser(description="Load and random faults for a long time.")
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--load", type=float, default=0.6, help="share of the capacity")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args(argv)
    with arena(3, 2) as own:
        requests = [
            Request(prompt(index, length), count, seed)
            for index, (length, count) in enumerate(SIZES)
            for seed in (None, 77)
        ]
        can = capacity(own, requests, CAPACITY, 6)
        _say(f"seed {options.seed}, capacity {can:.2f}/s, load {options.load * can:.2f}/s")
        load = Load(own, requests, options.load * can, options.seed, LEAVERS)
        sampler = Sampler(own, lambda: load.num_open)
        nemesis = Nemesis(own, random.Random(options.seed))
        _watch(options.minutes * 60, load, nemesis)
        faults = nemesis.stop()
        verdicts = load.stop()
        samples = sampler.stop()
        leaked = _leaked(own)
    return _conclude(verdicts, faults, samples, leaked)


def _watch(seconds: float, load: Load, nemesis: Nemesis) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        time.sleep(min(60.0, max(0.1, until - time.monotonic())))
        kinds = dict(Counter(verdict.kind for verdict in list(load.verdicts)))
        _say(f"{until - time.monotonic():5.0f} s left; {len(nemesis.faults)} faults; {kinds}")


def _leaked(own: Arena) -> str:
    try:
        own.await_complete()
        own.assert_quiescent()
    except AssertionError as error:
        return str(error)
    return ""


def _conclude(
    verdicts: Sequence[Verdict], faults: Sequence[Fault], samples: Sequence[Sample], leaked: str
) -> int:
    kinds = Counter(verdict.kind for verdict in verdicts)
    wrong = [verdict for verdict in verdicts if not _is_good(verdict, faults)]
    total = sum((verdict.difference for verdict in verdicts), NONE)
    slopes = {f"{name} ({pid})": mb for (name, pid), mb in growth(samples).items()}
    BUILD.mkdir(parents=True, exist_ok=True)
    found = {
        "requests": len(verdicts),
        "kinds": kinds,
        "faults": [asdict(fault) for fault in faults],
        "leaked": leaked,
        "tokens": asdict(total),
        "mb_per_hour": slopes,
        "wrong": [asdict(verdict) for verdict in wrong],
    }
    (BUILD / "soak.json").write_text(json.dumps(found, indent=1), encoding="utf-8")
    (BUILD / "soak.svg").write_text(_picture(verdicts, faults, samples), encoding="utf-8")
    _say(f"{len(verdicts)} requests, {len(faults)} faults: {dict(kinds)}")
    _say(f"stuck {kinds['stuck']}, lost {total.lost}, duplicated {total.duplicated}, "
         f"changed {total.changed}, leaked: {leaked or 'nothing'}")  # fmt: skip
    for life, mb in sorted(slopes.items(), key=lambda one: -one[1])[:5]:
        _say(f"{life}: {mb:+.1f} MB/h")
    for verdict in wrong[:10]:
        _say(f"{verdict.kind}: {verdict.why}")
    _say(f"see {BUILD / 'soak.json'} and soak.svg")
    return 1 if wrong or leaked or total else 0


def _is_good(verdict: Verdict, faults: Sequence[Fault]) -> bool:
    return verdict.kind in GOOD or (
        verdict.kind in AWAY
        and any(
            verdict.started - BACK <= fault.at <= verdict.ended and fault.whom == "gateway"
            for fault in faults
        )
    )


def _picture(
    verdicts: Sequence[Verdict], faults: Sequence[Fault], samples: Sequence[Sample]
) -> str:
    memory: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for sample in samples:
        for (name, _), taken in sample.processes.items():
            memory[name].append((sample.at, taken.rss / 1e6))
    seconds = max((sample.at for sample in samples), default=1.0)
    panels = [
        Panel("open requests", {"open": [(one.at, float(one.open)) for one in samples]}),
        Panel("answers per 10 s", {"whole": _rate(verdicts, seconds)}),
        Panel("memory, MB", dict(memory)),
        Panel("descriptors", _descriptors(samples)),
    ]
    begin = _begin(verdicts)
    return draw(panels, [(fault.at - begin, 0.0) for fault in faults], seconds)


def _rate(verdicts: Sequence[Verdict], seconds: float) -> list[tuple[float, float]]:
    ends = sorted(verdict.ended for verdict in verdicts if verdict.kind == "whole")
    begin = _begin(verdicts)
    counted = Counter(int((end - begin) // 10) for end in ends)
    return [(10.0 * tick, float(counted[tick])) for tick in range(int(seconds // 10) + 1)]


def _begin(verdicts: Sequence[Verdict]) -> float:
    return min((verdict.started for verdict in verdicts), default=0.0)


def _descriptors(samples: Sequence[Sample]) -> dict[str, list[tuple[float, float]]]:
    found: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for sample in samples:
        for (name, _), taken in sample.processes.items():
            found[name].append((sample.at, float(taken.fds)))
    return dict(found)


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
