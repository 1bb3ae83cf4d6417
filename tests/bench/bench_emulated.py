"""The emulated mesh of `tetris up --emulated`: start, memory, processor time, and honest times.

Prompts are as long as the `medium` workload's. What the client measures holds everything: HTTP,
planning, ZeroMQ, both event loops. Run: python -m tests.bench.bench_emulated
"""

import argparse
import asyncio
import json
import random
import re
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import numpy as np
from msgspec import structs

from common.config import StepCost, load
from common.latency import LatencyModel
from compose import preset
from loadgen.lengths import workload
from tests.bench.machine import TICKS, Watch
from tests.processes.real_mesh import RealMesh, running_mesh

PRESET = "a100-llama3-8b"
IDLE = 10.0
PATIENCE = 120.0


@dataclass
class Answer:
    """One stream: the id of its request, and when its pieces came, in seconds after the call."""

    id: str = ""
    arrivals: list[float] = field(default_factory=list)
    num_tokens: int = 0


class Meter:
    """Processor time of every process of a mesh, from its making on."""

    def __init__(self, mesh: RealMesh) -> None:
        by_pid: dict[int, str] = {}
        for event in mesh.events("started"):
            by_pid.setdefault(event["pid"], event["name"])
        self.pids = {name: pid for pid, name in by_pid.items()}
        self._watch = Watch(self.pids.values())
        self._began, self._before = time.monotonic(), self._spent()

    def shares(self) -> dict[str, float]:
        """Cores used on average; `others` is everybody else on the machine."""
        seconds = time.monotonic() - self._began
        used = {name: (now - self._before[name]) / seconds for name, now in self._spent().items()}
        return used | {"others": self._watch.others()}

    def memory(self) -> dict[str, float]:
        """Resident MB."""
        found = {}
        for name, pid in self.pids.items():
            status = Path(f"/proc/{pid}/status").read_text()
            kilobytes = re.search(r"VmRSS:\s+(\d+)", status)
            assert kilobytes is not None
            found[name] = int(kilobytes[1]) / 1024
        return found

    def _spent(self) -> dict[str, float]:
        spent = {}
        for name, pid in self.pids.items():
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
            spent[name] = (int(fields[11]) + int(fields[12])) / TICKS
        return spent


@contextmanager
def running(*options: str, step: StepCost | None = None) -> Iterator[RealMesh]:
    config = load(preset.find(PRESET))
    emulated = structs.replace(config.emulated, step=step or config.emulated.step)
    log = structs.replace(config.log, format="json")
    text = preset.dump(structs.replace(config, emulated=emulated, log=log))
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory, "preset.toml")
        file.write_text(text)
        with running_mesh("--emulated", *options, model=None, preset=file) as mesh:
            yield mesh


class Client:
    """Sends prompts of ids and notes when pieces of their answers come."""

    def __init__(self, url: str, session: aiohttp.ClientSession) -> None:
        self._url = f"{url}/v1/completions"
        self._session = session
        self._rng = random.Random(1)

    async def ask(self, length: int, max_tokens: int, answer: Answer) -> None:
        ids = [self._rng.randrange(32, 127) for _ in range(length)]
        body = {"model": "Llama-3-8B", "prompt": ids, "max_tokens": max_tokens, "stream": True}
        text = json.dumps(body).encode()
        began = time.perf_counter()
        async with self._session.post(
            self._url, data=text, headers={"content-type": "application/json"}
        ) as response:
            assert response.status == 200, await response.text()
            async for line in response.content:
                if not line.startswith(b"data: {"):
                    continue
                answer.arrivals.append(time.perf_counter() - began)
                if not answer.id:
                    answer.id = json.loads(line[6:])["id"]
                answer.num_tokens += 1


async def light(mesh: RealMesh, lengths: Sequence[int]) -> list[Answer]:
    """One request after another."""
    async with aiohttp.ClientSession() as session:
        client, answers = Client(mesh.url, session), []
        for length in lengths:
            answers.append(Answer())
            await client.ask(length, 64, answers[-1])
        return answers


async def poisson(mesh: RealMesh, lengths: Sequence[int], rate: float) -> list[Answer]:
    """Requests at random times, each answered with 64 tokens; all answers that came in time."""
    rng, answers = random.Random(2), [Answer() for _ in lengths]
    timeout, connector = aiohttp.ClientTimeout(total=None), aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(timeout=timeout, connector=connector) as session:
        client = Client(mesh.url, session)
        async with asyncio.TaskGroup() as group:
            for length, answer in zip(lengths, answers, strict=True):
                group.create_task(client.ask(length, 64, answer))
                await asyncio.sleep(rng.expovariate(rate))
    return answers


async def streams(
    mesh: RealMesh, count: int, seconds: float
) -> tuple[int, float, dict[str, float]]:
    """Tokens that so many streams got, in seconds, and cores used meanwhile."""
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector) as session:
        client, answers = Client(mesh.url, session), [Answer() for _ in range(count)]
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(client.ask(64, 100_000, one)) for one in answers]
            await asyncio.sleep(3.0)
            meter, began = Meter(mesh), time.perf_counter()
            before = sum(one.num_tokens for one in answers)
            await asyncio.sleep(seconds)
            made = sum(one.num_tokens for one in answers) - before
            took, shares = time.perf_counter() - began, meter.shares()
            for task in tasks:
                task.cancel()
    return made, took, shares


def _planned(mesh: RealMesh) -> dict[str, float]:
    return {event["request"]: event["ttft"] for event in mesh.events("planned")}


def _late(mesh: RealMesh, answers: Sequence[Answer]) -> list[float]:
    """Measured less predicted TTFT, of those that are told by the log."""
    planned = _planned(mesh)
    found = []
    for answer in answers:
        names = [name for name in planned if name.startswith(answer.id)]
        found += [answer.arrivals[0] - planned[name] for name in names[:1]]
    assert len(found) >= len(answers) * 0.9, (len(found), sorted(planned)[:3], answers[0].id)
    return found


def _chunks(mesh: RealMesh) -> list[float]:
    """Seconds of every member's chunk, from when all had come, less those of the model."""
    model = LatencyModel.load(PRESET)
    return [
        one["ended"] - one["started"] - model.predict(one["size"], one["history"], one["length"])
        for one in mesh.events("chunk_done")
    ]


def _shown(values: dict[str, float], unit: str, digits: int) -> str:
    return ", ".join(f"{name} {value:.{digits}f}{unit}" for name, value in values.items())


def _spread(values: Sequence[float]) -> str:
    mean, p50, p99, most = np.mean(values), *np.percentile(values, [50, 99]), max(values)
    figures = (f"{1e3 * float(value):.1f}" for value in (mean, p50, p99, most))
    return " / ".join(figures) + " ms (mean / P50 / P99 / max)"


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def start_and_light(count: int) -> None:
    lengths = workload("medium").draw(count, np.random.default_rng(3))
    began = time.monotonic()
    with running() as mesh:
        _say(f"ready after {time.monotonic() - began:.1f} s")
        time.sleep(2.0)
        meter = Meter(mesh)
        time.sleep(IDLE)
        _say(f"idle: cores {_shown(meter.shares(), '', 3)}")
        _say(f"resident: {_shown(meter.memory(), ' MB', 0)}")
        meter = Meter(mesh)
        answers = asyncio.run(light(mesh, lengths))
        _say(f"one after another, {count} prompts: cores {_shown(meter.shares(), '', 3)}")
        _say(f"  measured - predicted TTFT: {_spread(_late(mesh, answers))}")
        _say(f"  a chunk's seconds - the model's: {_spread(_chunks(mesh))}")
        step = load(preset.find(PRESET)).emulated.step
        gaps = []
        for length, one in zip(lengths, answers, strict=True):
            # From the third on: the second waits for the hand-over as well.
            cost = step.base + step.request + step.token * (length + 33)
            gaps.append((one.arrivals[-1] - one.arrivals[2]) / (len(one.arrivals) - 3) - cost)
        _say(f"  time between tokens - step cost: {_spread(gaps)}")


def under_load(rate: float, seconds: float) -> None:
    lengths = workload("medium").draw(int(rate * seconds), np.random.default_rng(4))
    with running() as mesh:
        meter = Meter(mesh)
        began = time.monotonic()
        answers = asyncio.run(poisson(mesh, lengths, rate))
        took = time.monotonic() - began
        _say(f"{rate:g} req/s offered: {len(lengths)} answered in {took:.1f} s, "
             f"cores {_shown(meter.shares(), '', 3)}")  # fmt: skip
        _say(f"  measured - predicted TTFT: {_spread(_late(mesh, answers))}")
        _say(f"  a chunk's seconds - the model's: {_spread(_chunks(mesh))}")


def saturation(count: int, step: StepCost | None) -> None:
    cost = step or load(preset.find(PRESET)).emulated.step
    with running(step=step) as mesh:
        made, took, shares = asyncio.run(streams(mesh, count, 8.0))
    each = count / 2
    ideal = count / (cost.base + cost.request * each + 1e-9)
    rate, used = made / took, shares["emulated-workers"]
    _say(f"{count} streams, base {cost.base}: {rate:.0f} tokens/s of {ideal:.0f}")
    _say(f"  cores {_shown(shares, '', 2)}; {rate / used:.0f} tokens per core of the workers")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", default=["light", "load", "tokens"])
    options = parser.parse_args()
    if "light" in options.parts:
        start_and_light(40)
    if "load" in options.parts:
        under_load(4.0, 20.0)
        under_load(16.0, 10.0)
    if "tokens" in options.parts:
        saturation(32, None)
        saturation(128, None)
        saturation(128, StepCost(base=0.002, request=0.0, token=0.0))
    return 0


if __name__ == "__main__":
    sys.exit(main())
