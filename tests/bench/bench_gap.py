"""TTFT of a long prompt while one of two prefill instances is busy: the gap filled or not.

One instance computes a chunk that lasts half of T_2(N) when a prompt of N tokens comes. (A) the
planner decides, and has to cut it into a chunk on the free instance and the rest on both; (B) wait
for both; (C) take the free one alone, the last two as forced plans. The three take turns. Before
that, a few chunks are timed, and the mesh plans with the latency model that is fitted to them.
Other processes spoil such figures: it waits for a quiet machine and repeats what was disturbed.
Run: python -m tests.bench.bench_gap

Returns 1 when A takes more than LIMIT times the better one of B and C, and 2 when the machine was
not quiet long enough.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
import urllib.request
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

from common.latency import LatencyModel, Sample
from tests.bench.bench_prefill import real_ids
from tests.bench.machine import Noise, Quiet
from tests.bench.measure_latency import measure_chunk
from tests.processes.real_mesh import RealMesh, running_mesh
from tests.processes.timeline import Span, draw, spans

LIMIT = 0.9
WANTED = (
    *((size, 0, share) for size in (1, 2) for share in (1 / 12, 1 / 4, 1 / 2, 1)),
    *((2, 1 / 4, 1 / 2), (2, 5 / 12, 7 / 12)),
)
"""Size, history and length of the chunks that are timed, in parts of the long prompt."""
STARTED = "chunk.start"
PRESET = """\
[model]
path = "smollm2"
name = "smollm2"

[gateway]
allow_forced_plans = true

[router]
latency = "{latency}"
calibrate_seconds = 0.0
learn = false

[schedule]
policy = "cdsp"
sp_size_candidates = [1, 2]

[log]
format = "json"
"""


class Case(NamedTuple):
    """One way to serve the long prompt; `plan` is forced."""

    letter: str
    words: str
    plan: str | None


CASES = (
    Case("A", "planner", None),
    Case("B", "wait for both", "2"),
    Case("C", "one now", "1"),
)


class Load(NamedTuple):
    """Token ids of the long prompt, and of the one that keeps an instance busy."""

    prompt: list[int]
    busy: list[int]


@dataclass(frozen=True)
class Trial:
    """One long prompt beside one busy instance; seconds."""

    ttft: float
    predicted: float
    plan: str
    lead: float
    """From the start of the busy chunk to the arrival of the prompt."""
    busy: float
    """What the busy chunk took."""
    spans: list[Span]


def calibrated(ids: list[int], tokens: int, rounds: int, quiet: Quiet) -> LatencyModel:
    """The latency model of one and of two instances of an idle mesh on this machine."""
    began, samples, loads = time.monotonic(), list[Sample](), list[float]()
    with running_mesh("--prefill", "2") as mesh:
        mesh.complete(request(ids[:256]), {"x-tetris-plan": "2"})
        mesh.wait_for("chunk_done", 2)
        pids = processes(mesh)
        for _ in range(rounds):
            for size, history, length in WANTED:
                chunk = size, int(history * tokens), int(length * tokens)
                sample, others = quiet.take(pids, partial(measure_chunk, mesh, ids, *chunk))
                samples.append(sample)
                loads.append(others)
    model = LatencyModel.fit(samples)
    errors = [abs(model.error(sample)) for sample in samples]
    say(
        f"latency model: {len(samples)} chunks in {time.monotonic() - began:.0f} s, mean error"
        f" {statistics.mean(errors):.1%}, worst {max(errors):.1%}; others at most"
        f" {max(loads):.2f} cores"
    )
    return model


def processes(mesh: RealMesh) -> tuple[int, ...]:
    """All of a mesh."""
    return mesh.process.pid, *mesh.pids().values()


def request(ids: Sequence[int]) -> dict[str, object]:
    """Body of a prompt that is answered with one token."""
    return {
        "model": "smollm2",
        "prompt": list(ids),
        "max_tokens": 1,
        "temperature": 0,
        "ignore_eos": True,
    }


def first_token(mesh: RealMesh, ids: Sequence[int], plan: str | None) -> tuple[str, float, float]:
    """The request's name; when it was sent, and when its first text came, monotonic seconds."""
    call = urllib.request.Request(
        f"{mesh.url}/v1/completions",
        data=json.dumps({**request(ids), "stream": True}).encode(),
        headers={"content-type": "application/json", **({"x-tetris-plan": plan} if plan else {})},
    )
    sent = time.monotonic()
    with urllib.request.urlopen(call, timeout=600) as answer:
        for line in answer:
            if not line.startswith(b"data: {"):
                continue
            came, event = time.monotonic(), json.loads(line[6:])
            if any(choice["text"] for choice in event.get("choices", ())):
                answer.read()
                return event["id"], sent, came
    raise SystemExit("the mesh has sent no token")


def attempt(mesh: RealMesh, load: Load, case: Case) -> Trial:
    """Keep one instance busy, have the long prompt come, and see both to their ends."""
    seen, done = len(mesh.events("failpoint", point=STARTED)), len(spans(mesh))
    with ThreadPoolExecutor(1) as pool:
        other = pool.submit(mesh.complete, request(load.busy), {"x-tetris-plan": "1"})
        mesh.wait_for("failpoint", seen + 1, point=STARTED)
        name, sent, came = first_token(mesh, load.prompt, case.plan)
        if "choices" not in other.result():
            raise SystemExit(f"the mesh refused: {other.result()}")
    planned = mesh.wait_for("planned", request=name)[0]
    sizes = [int(part.partition(":")[0]) for part in planned["chunks"].split(" → ")]
    mesh.wait_for("chunk_done", done + 1 + sum(sizes))
    if case.plan is None and sizes != [1, 2]:
        raise SystemExit(f"the planner was to cut 1 → 2, and has planned {planned['chunks']}")
    drawn = spans(mesh)[done:]
    first = next(span for span in drawn if span.request != name)
    return Trial(
        ttft=came - sent,
        predicted=planned["ttft"],
        plan=planned["chunks"],
        lead=sent - first.start,
        busy=first.end - first.start,
        spans=drawn,
    )


def compare(mesh: RealMesh, load: Load, repeats: int, quiet: Quiet) -> dict[str, list[Trial]]:
    """So many trials of each case, in turns."""
    trials: dict[str, list[Trial]] = {case.letter: [] for case in CASES}
    pids = processes(mesh)
    for number in range(repeats):
        for case in CASES:
            one, others = quiet.take(pids, partial(attempt, mesh, load, case))
            trials[case.letter].append(one)
            say(
                f"{number + 1}/{repeats} {case.letter} {case.words:<13}  TTFT {one.ttft:6.2f} s,"
                f" predicted {one.predicted:6.2f}  busy {one.busy:5.2f} s, since"
                f" {1000 * one.lead:.0f} ms  others {others:.2f} cores  {one.plan}"
            )
    return trials


def report(trials: dict[str, list[Trial]]) -> float:
    """Print figures and pictures; A's median over the better one of B and C."""
    medians, pictures, rows = {}, [], []
    say(f"\n{'':17}{'median':>8}{'min':>8}{'max':>8}{'predicted':>11}  plan")
    for case in CASES:
        taken = sorted(trials[case.letter], key=lambda one: one.ttft)
        typical, seconds = taken[len(taken) // 2], [one.ttft for one in taken]
        median = medians[case.letter] = statistics.median(seconds)
        predicted = statistics.median(one.predicted for one in taken)
        say(
            f"{case.letter} {case.words:<15}{median:8.2f}{seconds[0]:8.2f}{seconds[-1]:8.2f}"
            f"{predicted:11.2f}  {typical.plan}"
        )
        pictures.append(f"\n{case.letter} {case.words}\n{draw(typical.spans)}")
        rows.append({"case": case.words, "ttft": seconds, "predicted": predicted})
    say("\n".join(pictures))
    ratio = medians["A"] / min(medians["B"], medians["C"])
    say(f"\n{json.dumps({'ratio': ratio, 'rows': rows})}")
    return ratio


def say(text: str) -> None:
    """Print at once."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def main() -> int:
    """Calibrate, compare, report."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--tokens", type=int, default=6000, help="of the long prompt")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=2, help="of the calibration")
    parser.add_argument("--latency", type=Path, help="a latency model instead of a calibration")
    parser.add_argument("--keep", type=Path, help="where to write the latency model")
    parser.add_argument("--noise", type=float, default=0.1, help="cores that others may use")
    parser.add_argument("--patience", type=float, default=1800.0, help="seconds to wait for that")
    options = parser.parse_args()
    quiet = Quiet(Noise(options.noise, options.patience))
    ids, tokens = real_ids(), options.tokens
    with tempfile.TemporaryDirectory(prefix="tetris-gap-") as directory:
        if options.latency:
            model = LatencyModel.load(str(options.latency))
        else:
            model = calibrated(ids, tokens, options.rounds, quiet)
        path, preset = options.keep or Path(directory, "latency.toml"), Path(directory, "mesh.toml")
        model.dump(path)
        preset.write_text(PRESET.format(latency=path.absolute()))
        half = model.predict(2, 0, tokens) / 2
        busy = model.solve(1, 0, half)
        say(f"the busy instance: {busy} tokens, {half:.2f} s")
        with running_mesh("--prefill", "2", preset=preset) as mesh:
            for name in ("prefill-worker-0", "prefill-worker-1"):
                mesh.arm(name, f"{STARTED}=sleep(0)")  # which is logged, and all that it does
            mesh.complete(request(ids[:256]), {"x-tetris-plan": "2"})
            mesh.wait_for("chunk_done", 2)
            load = Load(ids[:tokens], ids[tokens : tokens + busy])
            trials = compare(mesh, load, options.repeats, quiet)
    ratio = report(trials)
    is_met = ratio <= LIMIT
    verdict = "at most" if is_met else "ABOVE THE LIMIT of"
    say(f"TTFT by the planner / the better one of the others = {ratio:.3f}, {verdict} {LIMIT:g}")
    return 0 if is_met else 1


if __name__ == "__main__":
    raise SystemExit(main())
