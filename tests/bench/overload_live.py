"""An overload of a mesh that serves over HTTP, and the memory of its processes meanwhile.

What the door adds to the router's time is part of what is measured here: a connection, a body of
ids, and reading it.
"""

import argparse
import asyncio
import json
import random
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

import aiohttp

from loadgen.arrival import Arrival
from loadgen.arrivals import draw_arrivals
from loadgen.lengths import WORKLOADS, Lengths, workload
from tests.bench.overload_figures import MAX_TRIES, Result, Try, line, returns

HEADER = "x-tetris-predicted-ttft"
SILENCE = 1200.0
"""Seconds without a byte, of which a long wait has many comments."""
WATCHED = ("router", "gateway")


def add_options(parser: argparse.ArgumentParser) -> None:
    """What only a live mesh needs to be told."""
    live = parser.add_argument_group("of a live mesh")
    live.add_argument("--url", default="", help="of its gateway")
    live.add_argument("--capacity", type=float, default=0.0, help="requests per second, if known")
    live.add_argument("--measure", type=float, default=30.0, help="seconds to find it out")
    live.add_argument("--together", type=int, default=64, help="requests at once meanwhile")
    live.add_argument("--workload", choices=WORKLOADS, default="short")
    live.add_argument("--scale", type=float, default=1.0, help="of its prompt lengths")
    live.add_argument("--probes", type=int, default=50)
    live.add_argument("--returning", choices=("none", "probes", "all"), default="probes")
    live.add_argument("--seed", type=int, default=1)


async def main(options: argparse.Namespace) -> None:
    """Measure the capacity of the mesh at `--url`, exceed it, and write a line and its memory."""
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=30.0, sock_read=SILENCE)
    connector = aiohttp.TCPConnector(limit=0, force_close=True)
    async with aiohttp.ClientSession(timeout=timeout, connector=connector) as session:
        live = _Live(session, options)
        await live.choose_model()
        able = options.capacity or await live.capacity()
        _say(f"capacity {able:.2f} requests/s")
        async with asyncio.TaskGroup() as group:
            watching = group.create_task(live.watch())
            await live.overload(options.factor * able, options.seconds)
            watching.cancel()
    sys.stdout.write(f"{line(f'live, {options.returning}', able, options.seconds, live.result)}\n")
    for name, sizes in live.memory.items():
        text = f"RSS {sizes[0]:.0f} MB at first, {max(sizes):.0f} at most, {sizes[-1]:.0f} at last"
        sys.stdout.write(f"{name:34} {text}\n")


@dataclass
class _Reply:
    status: int
    ttft: float = 0.0
    predicted: float | None = None
    after: float | None = None


class _Live:
    def __init__(self, session: aiohttp.ClientSession, options: argparse.Namespace) -> None:
        self.result = Result()
        self.memory: dict[str, list[float]] = {}
        self._session = session
        self._options = options
        self._lengths = _scaled(workload(options.workload), options.scale)
        self._url = options.url.rstrip("/")
        self._model: dict[str, object] = {}
        self._begun = 0.0

    async def choose_model(self) -> None:
        async with self._session.get(f"{self._url}/v1/models", raise_for_status=True) as answer:
            self._model = (await answer.json())["data"][0]

    async def capacity(self) -> float:
        """First tokens per second while so many requests are there all the time."""
        options, firsts = self._options, list[float]()
        begun = perf_counter()
        arrivals = iter(self._arrivals(1.0, 100_000))

        async def one(number: int) -> None:
            while perf_counter() - begun < options.measure:
                reply = await self._ask(next(arrivals), f"{options.seed} {number} {len(firsts)}")
                firsts.append(perf_counter())
                if reply.status != 200:
                    await asyncio.sleep(reply.after or 1.0)

        async with asyncio.TaskGroup() as group:
            for number in range(options.together):
                group.create_task(one(number))
        warm = begun + options.measure / 3
        end = begun + options.measure
        return max(1, sum(warm < first <= end for first in firsts)) / (end - warm)

    async def overload(self, rate: float, seconds: float) -> None:
        """Clients come, are refused, and return, until all have given up or got an answer."""
        count = int(rate * seconds * 1.3) + 10
        arrivals = [one for one in self._arrivals(rate, count) if one.at < seconds]
        every = max(1, len(arrivals) // self._options.probes)
        self._begun = perf_counter()
        async with asyncio.TaskGroup() as clients:
            for number, arrival in enumerate(arrivals):
                clients.create_task(self._client(number, arrival, number % every == 0))

    async def watch(self) -> None:
        """Note how large the processes of the mesh are, if they run here; say how it goes on."""
        while True:
            for name, size in _sizes():
                self.memory.setdefault(name, []).append(size)
            taken, tries = self.result.num_taken, len(self.result.tries)
            _say(f"{taken} of {tries} answered")
            await asyncio.sleep(5.0)

    async def _client(self, number: int, arrival: Arrival, is_probe: bool) -> None:
        await asyncio.sleep(arrival.at)
        for count in range(MAX_TRIES):
            at = perf_counter() - self._begun
            reply = await self._ask(arrival, f"{self._options.seed} {number}")
            one = Try(at, is_probe, count > 0, reply.status == 200)
            one.ttft, one.predicted, one.after = reply.ttft, reply.predicted, reply.after
            self.result.tries.append(one)
            if one.is_taken or not returns(self._options.returning, is_probe):
                return
            await asyncio.sleep(one.after or 1.0)

    async def _ask(self, arrival: Arrival, seed: str) -> _Reply:
        length = max(1, min(arrival.length, self._limit - arrival.output))
        rng = random.Random(seed)
        body = {
            "model": self._model["id"],
            "prompt": [rng.randrange(3, 250) for _ in range(length)],
            "max_tokens": arrival.output,
            "ignore_eos": True,
            "stream": True,
        }
        begun = perf_counter()
        try:
            return await self._stream(json.dumps(body).encode(), begun)
        except (aiohttp.ClientError, TimeoutError) as error:
            _say(f"{type(error).__name__}: {error}")
            return _Reply(0)

    async def _stream(self, body: bytes, begun: float) -> _Reply:
        headers = {"Content-Type": "application/json"}
        url = f"{self._url}/v1/completions"
        async with self._session.post(url, data=body, headers=headers) as answer:
            if answer.status != 200:
                after = answer.headers.get("Retry-After")
                return _Reply(answer.status, after=float(after) if after else None)
            told = answer.headers.get(HEADER)
            reply = _Reply(200, predicted=float(told) if told else None)
            async for text in answer.content:
                if text.startswith(b"data:") and not reply.ttft:
                    reply.ttft = perf_counter() - begun
                if text.startswith(b'data: {"error"'):
                    reply.status = 500
            return reply

    def _arrivals(self, rate: float, count: int) -> list[Arrival]:
        outputs = Lengths(1, 8, 64, sigma=0.8)
        seed = self._options.seed
        return draw_arrivals(count, rate, self._lengths, seed=seed, outputs=outputs)

    @property
    def _limit(self) -> int:
        return int(str(self._model.get("max_model_len", 4096)))


def _scaled(lengths: Lengths, scale: float) -> Lengths:
    low, high = max(1, round(lengths.minimum * scale)), round(lengths.maximum * scale)
    return Lengths(low, lengths.mean * scale, high, lengths.sigma)


def _say(text: str) -> None:
    sys.stderr.write(f"  {text}\n")


def _sizes() -> Iterator[tuple[str, float]]:
    """Router and gateways on this machine by name and number, with their megabytes."""
    for home in Path("/proc").glob("[0-9]*"):
        try:
            words = (home / "cmdline").read_bytes().split(b"\0")
            role = words[words.index(b"service") + 1].decode() if b"service" in words else ""
            if role in WATCHED:
                status = (home / "status").read_text()
                kilobytes = status.partition("VmRSS:")[2].split()[0]
                yield f"{role} {home.name}", int(kilobytes) / 1000
        except (OSError, IndexError, ValueError):
            # It has just ended.
            continue
