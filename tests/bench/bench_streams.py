"""How much one gateway process streams before it adds 20 ms at the 99th percentile.

    python -m tests.bench.bench_streams [--seconds 8] [--profile FILE]

A real gateway process over ZeroMQ; router and decode are emulated here: each stream gets a token
every 25 ms, 64 streams share a decode instance and its TokenBatch. Added latency is from the
moment when a batch is handed to ZeroMQ until the event is in the client's socket buffer.
"""

import argparse
import asyncio
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import structlog
import uvloop

from common.clock import MonotonicClock
from common.config import Config, load
from common.mesh import Mesh
from common.messages import (
    Accepted,
    ClusterState,
    EndOfRequest,
    FirstToken,
    Heartbeat,
    Hello,
    Peer,
    Submit,
    Token,
    TokenBatch,
    Welcome,
)
from common.metrics import Metrics
from common.zmq_transport import ZmqTransport
from compose import preset
from compose.model_cache import DEFAULT_MODEL, ModelCache, default_directory

EPOCH = 5
BATCH = 64
STEP = 0.025
"""Seconds between two tokens of a stream."""
LIMIT = 0.020
PROMPT = list(range(1000, 1128))
PROFILED = """
import cProfile
from common.config import load
from common.launch import launch
from gateway.service import serve
config = load({file!r})
profiler = cProfile.Profile()
profiler.runcall(launch, "gateway", serve, config)
profiler.dump_stats({profile!r})
"""
IDS = (504, 3575, 282, 4649, 314, 7042, 30, 198, 28, 253)
"""Tokens of real text, so that decoding them costs what it does in life."""


@dataclass
class Emulated:
    """One stream as the fake mesh sees it."""

    submit: Submit
    sent: list[float] = field(default_factory=list)

    def token(self) -> Token:
        index = len(self.sent)
        finish = "length" if index + 1 == self.submit.ending.max_tokens else None
        return Token(self.submit.request, 1, index, IDS[index % len(IDS)], finish=finish)


class FakeMesh:
    """Router and decode instances of one gateway."""

    def __init__(self, mesh: Mesh, step: float) -> None:
        self.mesh = mesh
        self.is_ready = asyncio.Event()
        self.streams: dict[str, Emulated] = {}
        self.known: set[str] = set()
        self.instances: set[int] = set()
        self.by_arrival: list[Emulated] = []
        self.step = step
        self._submitted = asyncio.Semaphore(0)

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            while True:
                message, _ = await self.mesh.receive()
                match message:
                    case Hello(peer=peer):
                        self.mesh.send(peer.inbox, Welcome(EPOCH, peer.incarnation))
                        self._state(peer.inbox)
                        self.is_ready.set()
                    case Heartbeat(inbox=str(inbox), incarnation=incarnation):
                        self.mesh.send(inbox, Welcome(EPOCH, incarnation))
                        self._state(inbox)
                    case Submit():
                        self._submit(group, message)
                    case EndOfRequest(request=request):
                        self.streams.pop(request, None)

    def _state(self, inbox: str) -> None:
        state = ClusterState(EPOCH, num_prefill=1, num_decode=1, num_brokers=1, waiting=0)
        self.mesh.send(inbox, state)

    async def submitted(self) -> None:
        """Until one more request has come."""
        await self._submitted.acquire()

    def _submit(self, group: asyncio.TaskGroup, submit: Submit) -> None:
        inbox = submit.reply.inbox
        self.mesh.send(inbox, Accepted(submit.request, 1, 0.0))
        if submit.request in self.known:
            return
        self.known.add(submit.request)
        stream = Emulated(submit)
        self.by_arrival.append(stream)
        self._submitted.release()
        token = stream.token()
        self.mesh.send(inbox, FirstToken(token, self._decode))
        stream.sent.append(_now())
        if token.finish is None:
            self.streams[submit.request] = stream
            if self.step == 0.0:
                self._rest(stream, inbox)
            elif (number := (len(self.streams) - 1) // BATCH) not in self.instances:
                self.instances.add(number)
                group.create_task(self._decode_instance(number, inbox))

    def _rest(self, stream: Emulated, inbox: str) -> None:
        while self.streams.get(stream.submit.request) is stream:
            self._emit([stream], inbox)

    async def _decode_instance(self, number: int, inbox: str) -> None:
        """Steps of the streams [64 n, 64 (n + 1)), each instance at a moment of its own."""
        due = _now() + self.step * (number * 0.618 % 1.0)
        while True:
            due += self.step
            await asyncio.sleep(max(0.0, due - _now()))
            batch = list(self.streams.values())[number * BATCH : (number + 1) * BATCH]
            if batch:
                self._emit(batch, inbox)

    def _emit(self, batch: list[Emulated], inbox: str) -> None:
        tokens = [stream.token() for stream in batch]
        now = _now()
        for stream, token in zip(batch, tokens, strict=True):
            stream.sent.append(now)
            if token.finish is not None:
                self.streams.pop(token.request, None)
        self.mesh.send(inbox, TokenBatch(self._decode, tuple(tokens)))

    @property
    def _decode(self) -> Peer:
        return Peer("decode-worker-0", 1, self.mesh.inbox)


class Client(asyncio.Protocol):
    """One connection that counts events and notes when each has come."""

    def __init__(self, body: bytes) -> None:
        self.events: list[float] = []
        self.ended = asyncio.get_running_loop().create_future()
        self._body = body
        self._tail = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert hasattr(transport, "write")
        head = (
            "POST /v1/completions HTTP/1.1\r\nHost: gateway\r\nConnection: close\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(self._body)}\r\n\r\n"
        )
        transport.write(head.encode() + self._body)

    def data_received(self, data: bytes) -> None:
        text = self._tail + data
        count = text.count(b"data: {")
        self.events += [_now()] * count
        # A boundary may cut the mark; what is left cannot hold a whole one.
        cut = text.rfind(b"data: {")
        self._tail = text[max(len(text) - 6, cut + 7 if cut >= 0 else 0) :]

    def connection_lost(self, error: Exception | None) -> None:
        if not self.ended.done():
            self.ended.set_result(None)


@dataclass
class Measured:
    """One load."""

    load: float
    """Streams, or requests per second."""
    rate: float
    """Tokens or requests per second."""
    p50: float
    p99: float
    cpu: float
    """Microseconds of the gateway for one token or request."""
    share: float
    """Of one core."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=8.0, help="for each load")
    parser.add_argument("--profile", help="write the gateway's profile to this file")
    parser.add_argument("--only-streams", action="store_true", help="no requests per second")
    parser.add_argument("--streams", type=int, default=0, help="measure only so many streams")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, uvloop_runner() as runner:
        config = _config()
        with _gateway(config, Path(folder), options.profile) as pid:
            runner.run(_measure(config, pid, options))


@contextmanager
def uvloop_runner() -> Iterator[asyncio.Runner]:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        yield runner


def _config() -> Config:
    path = ModelCache(default_directory(), _say).resolve(DEFAULT_MODEL)
    return load(
        preset.find("cpu"),
        {
            "model.path": str(path),
            "mesh.router": f"tcp://127.0.0.1:{_free_port()}",
            "mesh.name": "gateway",
            "gateway.port": _free_port(),
            "gateway.control_port": _free_port(),
            "gateway.max_requests": 4096,
            "gateway.max_connections": 8192,
            "gateway.max_connections_per_host": 8192,
        },
    )


@contextmanager
def _gateway(config: Config, folder: Path, profile: str | None) -> Iterator[int]:
    file = folder / "gateway.toml"
    file.write_text(preset.dump(config), encoding="utf-8")
    command = ["-m", "compose.cli", "service", "gateway", "--config", str(file)]
    if profile:
        # The service ends without the interpreter's last words, and so would its profile.
        command = ["-c", PROFILED.format(file=str(file), profile=profile)]
    environment = {**os.environ, "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}
    log = (folder / "log").open("w")
    process = subprocess.Popen([sys.executable, *command], env=environment, stdout=log, stderr=log)
    try:
        yield process.pid
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


async def _measure(config: Config, pid: int, options: argparse.Namespace) -> None:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(40))
    transport = ZmqTransport(config.mesh.router, 1 << 24, address=config.mesh.router)
    clock = MonotonicClock()
    mesh = Mesh(transport, config.mesh, Metrics(), clock)
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(mesh.run())]
        fake = FakeMesh(mesh, STEP)
        tasks.append(group.create_task(fake.run()))
        async with asyncio.timeout(120):
            await fake.is_ready.wait()
        await asyncio.sleep(1.0)
        port = config.gateway.port
        await _streams(fake, port, pid, 4, 2.0)
        loads = [options.streams] if options.streams else None
        await _ramp("streams", loads or _series(128), options.seconds, fake, port, pid)
        if not options.streams and not options.only_streams:
            await _ramp("requests", _series(20), options.seconds, fake, port, pid)
        for task in tasks:
            task.cancel()
    await mesh.close()


def _series(first: int) -> list[int]:
    return [round(first * 1.25**step) for step in range(24)]


async def _ramp(
    kind: str, loads: list[int], seconds: float, fake: FakeMesh, port: int, pid: int
) -> None:
    _say(f"{kind:>10} {'per second':>11} {'p50 ms':>8} {'p99 ms':>8} {'us each':>8} {'core':>6}")
    best = None
    for size in loads:
        run = _streams if kind == "streams" else _requests
        one = await run(fake, port, pid, size, seconds)
        _say(
            f"{size:>10} {one.rate:>11.0f} {one.p50 * 1e3:>8.2f} {one.p99 * 1e3:>8.2f} "
            f"{one.cpu:>8.1f} {one.share:>6.0%}"
        )
        if one.p99 > LIMIT:
            break
        best = one
    if best is not None:
        what = "tokens/s" if kind == "streams" else "requests/s of 16 tokens, streamed"
        _say(f"below 20 ms: {best.rate:.0f} {what}, {best.cpu:.1f} us of CPU for each\n")


async def _streams(
    fake: FakeMesh, port: int, pid: int, num_streams: int, seconds: float
) -> Measured:
    fake.step = STEP
    warm = 2.0
    max_tokens = int((seconds + warm) / STEP)
    clients, begun, cpu = [], 0.0, 0.0
    fake.by_arrival.clear()
    fake.streams.clear()
    for _ in range(num_streams):
        clients.append(await _connect(port, _body(max_tokens)))
        await fake.submitted()  # so that streams and clients pair up
    await asyncio.sleep(warm / 2)
    begun, cpu = _now(), _cpu(pid)
    await asyncio.sleep(seconds - 1.0)
    spent, until = _cpu(pid) - cpu, _now()
    for client in clients:
        await client.ended
    delays, count = [], 0
    for stream, client in zip(fake.by_arrival, clients, strict=True):
        for sent, come in zip(stream.sent, client.events, strict=True):
            if begun <= sent < until:
                delays.append(come - sent)
                count += 1
    return _measured(num_streams, count, delays, spent, until - begun)


async def _requests(
    fake: FakeMesh, port: int, pid: int, per_second: int, seconds: float
) -> Measured:
    fake.step = 0.0
    fake.by_arrival.clear()
    clients, starts = [], []
    begun, cpu = _now(), _cpu(pid)
    body = _body(16)
    for number in range(int(per_second * seconds)):
        await asyncio.sleep(max(0.0, begun + number / per_second - _now()))
        starts.append(_now())
        clients.append(await _connect(port, body))
    for client in clients:
        await client.ended
    spent, until = _cpu(pid) - cpu, _now()
    delays = [client.events[-1] - start for client, start in zip(clients, starts, strict=True)]
    return _measured(per_second, len(clients), delays, spent, until - begun)


def _measured(load: float, count: int, delays: list[float], spent: float, wall: float) -> Measured:
    delays.sort()
    p50, p99 = (delays[min(len(delays) - 1, int(len(delays) * q))] for q in (0.5, 0.99))
    return Measured(load, count / wall, p50, p99, spent / count * 1e6, spent / wall)


async def _connect(port: int, body: bytes) -> Client:
    loop = asyncio.get_running_loop()
    _, client = await loop.create_connection(lambda: Client(body), "127.0.0.1", port)
    return client


def _body(max_tokens: int) -> bytes:
    body = {
        "model": "SmolLM2-135M-Instruct",
        "prompt": PROMPT,
        "max_tokens": max_tokens,
        "stream": True,
        "ignore_eos": True,
    }
    return msgspec.json.encode(body)


def _cpu(pid: int) -> float:
    """Seconds of CPU that a process has taken, its threads included."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _now() -> float:
    return MonotonicClock().now()


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
