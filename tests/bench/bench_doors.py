"""How long the gateway's event loop stands still while its door is attacked: `make bench-doors`.

A gateway over a fake mesh runs in a process of its own, with a clock in its loop; attackers are
threads of this process. Lag is what a callback, due every millisecond, came too late; `others`
is the cores that everybody else had: a loop without a core is late, too.
"""

import asyncio
import gc
import json
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import uvloop

from gateway.api.tokenizer import Tokenizer
from tests.bench.machine import Watch
from tests.gateway.bench import Bench, Client, say
from tests.gateway.conftest import make_model

TICK = 0.001
HEAD = 1.0
"""Seconds for a head, shorter than in life, so that an attack sees its end."""
BODY = 30
"""Seconds that an attacker waits for an answer."""
POST = b"POST %s HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"

Attack = Callable[[int], Iterator[str]]
"""Yields what each of its connections came to."""


# The gateway


def serve() -> None:
    """Serve until standard input ends; each line asks for the worst lags since the last one."""
    with tempfile.TemporaryDirectory() as directory:
        path = make_model(Path(directory) / "tiny", max_model_len=1 << 20)
        tokenizer = Tokenizer(str(path))
        bench = Bench(path, tokenizer)
        bench.patience = 3600.0
        settings = {"header_timeout": HEAD}
        # As `tetris service` does.
        gc.collect()
        gc.freeze()
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(bench._run(say("hello", "length"), _answer, settings))
        tokenizer.close()


async def _answer(client: Client) -> None:
    lags: list[float] = []
    async with asyncio.TaskGroup() as group:
        ticking = group.create_task(_tick(lags))
        say_line(client.port)
        while await asyncio.to_thread(sys.stdin.readline):
            worst = sorted(lags)[-max(1, len(lags) // 1000) :] or [0.0]
            lags.clear()
            say_line(json.dumps([worst[-1], worst[0]]))
        ticking.cancel()


async def _tick(lags: list[float]) -> None:
    while True:
        due = time.perf_counter() + TICK
        await asyncio.sleep(TICK)
        lags.append(max(0.0, time.perf_counter() - due))


def say_line(what: object) -> None:
    sys.stdout.write(f"{what}\n")
    sys.stdout.flush()


# Attacks


def connect(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=BODY)


def outcome(raw: socket.socket) -> str:
    """The status, or how the connection ended."""
    try:
        answer = raw.recv(65536)
    except TimeoutError:
        return "open"
    except OSError:
        return "cut"
    finally:
        raw.close()
    return answer.split(b" ", 2)[1].decode() if answer else "closed"


def sent(port: int, *pieces: bytes) -> str:
    try:
        raw = connect(port)
    except OSError:
        return "not connected"
    try:
        for piece in pieces:
            raw.sendall(piece)
    except OSError:
        pass
    return outcome(raw)


def nothing(port: int) -> Iterator[str]:
    time.sleep(3)
    yield "-"


def slow_loris(port: int) -> Iterator[str]:
    held = [connect(port) for _ in range(400)]
    for letter in b"GET /health HTTP/1.1\r\nx":
        for raw in held:
            try:
                raw.send(bytes([letter]))
            except OSError:
                continue
        time.sleep(0.1)
    yield from map(outcome, held)


def giant_heads(port: int) -> Iterator[str]:
    for _ in range(50):
        yield sent(port, b"GET /health HTTP/1.1\r\nx: " + b"a" * (4 << 20))
        yield sent(port, b"GET /health HTTP/1.1\r\n" + b"a: b\r\n" * 100_000)


def hundred_megabytes(port: int) -> Iterator[str]:
    head = POST % b"/v1/completions"
    yield sent(port, head + b"Content-Length: 104857600\r\n\r\n", *[b"x" * (1 << 20)] * 100)
    chunk = b"100000\r\n" + b"x" * (1 << 20) + b"\r\n"
    yield sent(port, head + b"Transfer-Encoding: chunked\r\n\r\n", *[chunk] * 100)


def half_requests(port: int) -> Iterator[str]:
    for _ in range(400):
        raw = connect(port)
        raw.sendall((POST % b"/v1/completions") + b"Content-Length: 1000\r\n\r\n{")
        raw.close()
        yield "left"


def flood(port: int) -> Iterator[str]:
    held = [connect(port) for _ in range(2000)]
    time.sleep(HEAD + 0.5)
    yield from map(outcome, held)


def unread(port: int) -> Iterator[str]:
    held = [connect(port) for _ in range(50)]
    for raw in held:
        raw.settimeout(0.2)
        try:
            raw.sendall(b"GET /openapi.json HTTP/1.1\r\nHost: x\r\n\r\n" * 2000)
        except OSError:
            continue
    time.sleep(2)
    for raw in held:
        raw.close()
        yield "left"


def body(path: bytes, content: bytes, times: int = 4) -> Attack:
    length = b"Connection: close\r\nContent-Length: %d\r\n\r\n" % len(content)
    return lambda port: iter([sent(port, POST % path + length, content) for _ in range(times)])


def filled(before: bytes, part: bytes, after: bytes, size: int = (8 << 20) - 1024) -> bytes:
    return before + part * ((size - len(before) - len(after)) // len(part)) + after


ASK, SCALE = b"/v1/completions", b"/tokenize"
NO_MODEL = b'{"model": "other", "prompt": '
ATTACKS: dict[str, Attack] = {
    "nothing": nothing,
    "slow-loris, 400 connections": slow_loris,
    "giant heads, 100": giant_heads,
    "100 MB bodies, 2 at a time": hundred_megabytes,
    "half requests, 400": half_requests,
    "2,000 connections": flood,
    "answers never read, 50": unread,
    "8 MB of text": body(ASK, filled(NO_MODEL + b'"', b"hello, ", b'"}')),
    "8 MB of escapes": body(ASK, filled(NO_MODEL + b'"', b'\\"\\\\', b'"}')),
    "512 Ki ids": body(ASK, filled(NO_MODEL + b"[", b"31999,", b"1]}", 6 * 520_000)),
    "8 MB of ids": body(ASK, filled(NO_MODEL + b"[", b"31999,", b"1]}")),
    "8 MB of empty lists": body(ASK, filled(NO_MODEL + b"[", b"[],", b"[]]}")),
    "58,000 empty lists": body(ASK, filled(NO_MODEL + b"[", b"[],", b"[]]}", 174_000)),
    "8 MB of open brackets": body(ASK, b"[" * (8 << 20)),
    "100,000 open brackets": body(ASK, NO_MODEL + b"[" * 100_000),
    "tokenize 1 MiB": body(SCALE, filled(b'{"prompt": "', b"hello, ", b'"}', 1 << 20), 2),
    "detokenize 256 Ki ids": body(
        b"/detokenize", filled(b'{"tokens": [', b"300,", b"1]}", 1 << 20)
    ),
}


def run(port: int, attack: Attack) -> Counter[str]:
    """The attack by two threads at once."""
    tally: Counter[str] = Counter()
    threads = [threading.Thread(target=lambda: tally.update(attack(port))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return tally


def main() -> None:
    command = [sys.executable, "-m", "tests.bench.bench_doors", "--serve"]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, stderr=subprocess.DEVNULL
    ) as gateway:
        assert gateway.stdin is not None
        assert gateway.stdout is not None
        port = next(int(line) for line in gateway.stdout if line.strip().isdigit())
        head = f"{'attack, twice at once':<32}{'max lag':>9}{'99.9 %':>9}{'others':>8}   answers"
        say_line(head)
        for name, attack in ATTACKS.items():
            ask(gateway)
            watch = Watch([gateway.pid])
            tally = run(port, attack)
            worst, usual = ask(gateway)
            said = ", ".join(f"{count} x {what}" for what, count in tally.most_common())
            lags = f"{worst * 1e3:>6.1f} ms{usual * 1e3:>6.1f} ms"
            say_line(f"{name:<32}{lags}{watch.others():>8.1f}   {said}")
        gateway.stdin.close()


def ask(gateway: "subprocess.Popen[str]") -> tuple[float, float]:
    assert gateway.stdin is not None
    assert gateway.stdout is not None
    gateway.stdin.write("\n")
    gateway.stdin.flush()
    worst, usual = json.loads(next(line for line in gateway.stdout if line.startswith("[")))
    return worst, usual


if __name__ == "__main__":
    serve() if "--serve" in sys.argv else main()
