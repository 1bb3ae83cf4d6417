"""A real mesh under hostile and careless clients, peers and users."""

import json
import os
import random
import signal
import socket
import time
import urllib.request
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import zmq

from common.messages import (
    Accepted,
    Admitted,
    Cancel,
    ControlMessage,
    DecodeFacts,
    DecodeStats,
    EndOfRequest,
    Failed,
    FirstToken,
    Grant,
    Heartbeat,
    Peer,
    Ready,
    Refused,
    Rejected,
    Release,
    Released,
    Skip,
    Token,
    TokenBatch,
    Welcome,
)
from common.wire import CONTROL, Frame
from tests.processes.real_mesh import RealMesh, running_mesh

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

IDLE_LIMIT = 120.0
HELLO = {"model": "smollm2", "prompt": "Hello", "max_tokens": 4, "temperature": 0}
PLANS = ("1", "2", "4", "1,2", "1,2,4")


def connect(mesh: RealMesh) -> socket.socket:
    where = urlsplit(mesh.url)
    return socket.create_connection((str(where.hostname), int(where.port or 0)), 60)


def post(body: dict[str, Any] | bytes, plan: str = "1", path: str = "/v1/completions") -> bytes:
    """A request as it goes over the wire."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    head = (
        f"POST {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nx-tetris-plan: {plan}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n"
    )
    return head.encode("latin-1") + data


def ask(mesh: RealMesh, request: bytes) -> tuple[int, Any]:
    """Status and JSON of the whole answer."""
    with connect(mesh) as wire:
        wire.sendall(request)
        head, _, body = wire.makefile("rb").read().partition(b"\r\n\r\n")
    return int(head.split(b" ")[1]), json.loads(body)


def in_use(mesh: RealMesh) -> dict[str, float]:
    """All that the mesh still holds, by the name of its figure."""
    with urllib.request.urlopen(f"{mesh.url}/metrics", timeout=60) as answer:
        lines = [line.rsplit(" ", 1) for line in answer.read().decode().splitlines()]
    shown = ("tetris_mesh_in_use", "tetris_gateway_open")
    figures = {name: float(value) for name, value in lines if name.startswith(shown)}
    assert len(figures) == 6
    return {name: value for name, value in figures.items() if value}


def wait_until_idle(mesh: RealMesh) -> None:
    deadline = time.monotonic() + IDLE_LIMIT
    while held := in_use(mesh):
        assert time.monotonic() < deadline, f"still held: {held}"
        time.sleep(0.1)


@pytest.fixture(autouse=True)
def answers_as_before(mesh: RealMesh) -> Any:
    """Whatever a test does, nothing stays behind and a normal request gets the same answer."""
    expected = mesh.complete(HELLO)["choices"]
    yield
    wait_until_idle(mesh)
    assert mesh.process.poll() is None
    assert mesh.complete(HELLO)["choices"] == expected


BAD_REQUESTS = [
    (post({**HELLO, "prompt": None}), 400, "prompt"),
    (post({**HELLO, "prompt": [49152]}), 400, "prompt"),
    (post({**HELLO, "temperature": float("nan")}), 400, "temperature"),
    (post({**HELLO, "min_tokens": 5}), 400, "min_tokens"),
    (post({**HELLO, "model": "x" * 10_000}), 404, "model"),
    (post({**HELLO, "messages": []}, path="/v1/chat/completions"), 400, "messages"),
    (post(HELLO, plan="1\xff"), 400, "x-tetris-plan"),
    (post(b'{"prompt": "\xff"}'), 400, None),
    (post(b'{"prompt": "\\ud800"}'), 400, None),
    (post(b'{"prompt": '), 400, None),
    (post(b'{"x": ' + b"[" * 100_000), 400, None),
    (post(b" " * 9_000_000), 413, None),
    *((post(HELLO, plan=plan), 400, None) for plan in ("0", "2,1", "1:99999999,2", "1e9", "16")),
]


def test_bad_requests_are_refused_with_the_reason(mesh: RealMesh) -> None:
    for request, status, param in BAD_REQUESTS:
        given, body = ask(mesh, request)
        assert (given, body["error"]["param"]) == (status, param), request[:300]
        assert 0 < len(body["error"]["message"]) < 1000


def test_what_exceeds_the_context_is_told_in_the_sentence_that_clients_know(
    mesh: RealMesh,
) -> None:
    error = mesh.complete({**HELLO, "prompt": [5] * 8000, "max_tokens": 500})["error"]
    assert error["code"] == "context_length_exceeded"
    assert error["message"] == (
        "This model's maximum context length is 8192 tokens. However, you requested 8500 tokens "
        "(8000 in the prompt, 500 for the completion)."
    )


def test_extreme_parameters_are_served(mesh: RealMesh) -> None:
    greedy = mesh.complete(HELLO)["choices"][0]["text"]
    strange = {"min_tokens": 4, "stop_token_ids": [49152, 2**31 - 1], "ignore_eos": True}
    assert mesh.complete({**HELLO, **strange})["choices"][0]["text"] == greedy
    sharp = {"temperature": 1e-300, "top_p": 1e-300, "min_p": 1, "top_k": 2**31 - 1}
    body = {**HELLO, **sharp, "seed": -(2**63), "logprobs": 20}
    assert mesh.complete(body)["choices"][0]["text"] == greedy


def test_clients_that_leave_at_any_moment_leave_nothing_behind(mesh: RealMesh) -> None:
    def visit(seed: int) -> None:
        rng = random.Random(seed)
        body = {
            **HELLO,
            "prompt": [7] * rng.choice((1, 40, 300)),
            "max_tokens": rng.choice((1, 5, 100)),
            "ignore_eos": rng.random() < 0.5,
            "stop": ["e"] if rng.random() < 0.3 else None,
            "stream": rng.random() < 0.5,
        }
        request = post(body, rng.choice(PLANS[: 3 if len(body["prompt"]) == 1 else 5]))
        with connect(mesh) as wire:
            if rng.random() < 0.1:
                wire.sendall(request[:-5])
            else:
                wire.sendall(request)
                wire.settimeout(rng.uniform(0.001, 3.0))
                try:
                    while wire.recv(rng.choice((1, 10_000))):
                        pass
                except TimeoutError:
                    return

    with ThreadPoolExecutor(30) as pool:
        list(pool.map(visit, range(30)))


GARBAGE = [
    [b""],
    [b"\xff" * 100],
    [b"\xdf\xff\xff\xff\xff"],
    [b"\x91" * 5000],
    [b"x"] * 2000,
    [b"\x81\xa4type\xa4Nope"],
    [b"\x81\xa4type\xa6Cancel"],
    [b"\x81\xa4type\xa8RunChunk", b"ids"],
    [b"\x81\xa4type\xa7KvLayer", b"keys", b"values"],
    [b"\x00" * (2 << 20)],
    [b"\x81\xa4type\xa6Submit", b"\x00" * (20 << 20)],
]


WHO = ("prefill-worker-0", 1)
STRANGE: list[ControlMessage] = [
    Welcome(1, 1),
    Refused(1, "go away"),
    Heartbeat("decode-worker", "decode-worker-0", 1, DecodeFacts(0, 0, 0, 0)),
    Accepted("nobody", 1),
    Rejected("nobody", 1, 400, "no"),
    Cancel("nobody", 1),
    EndOfRequest("nobody", 1, 0, "abort"),
    Failed("nobody", 1, "what", "why", retryable=True),
    Skip(1, 1, 1),
    Ready(*WHO, 1, 1),
    Released(*WHO, "nobody", 1),
    Grant("nobody", 1, 0, 0, 0, 1),
    Release("nobody", 1, 0, 0, "decode-worker-0", 1),
    FirstToken(Token("nobody", 1, 0, 2**31 - 1), Peer("d", 1, "tcp://127.0.0.1:1")),
    TokenBatch(Peer("d", 1, "tcp://127.0.0.1:1"), (Token("nobody", 1, 0, 0),)),
    Admitted("decode-worker-0", 1, "nobody", 1, 16),
    DecodeStats("decode-worker-0", 1, DecodeFacts(0, 0, 0, 0)),
]


def ports(pid: int) -> set[int]:
    """TCP ports that a process listens on."""
    links = (os.readlink(fd) for fd in Path(f"/proc/{pid}/fd").iterdir() if fd.is_symlink())
    inodes = {link[8:-1] for link in links if link.startswith("socket:")}
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return {int(row[1][-4:], 16) for row in rows if row[3] == "0A" and row[9] in inodes}


def push(port: int, messages: Sequence[Sequence[Frame]]) -> None:
    """Send what a socket takes; for what its peer does not take it waits a second at most."""
    with zmq.Context() as context, context.socket(zmq.PUSH) as socket_:
        socket_.setsockopt(zmq.LINGER, 1000)
        socket_.setsockopt(zmq.SNDTIMEO, 1000)
        socket_.connect(f"tcp://127.0.0.1:{port}")
        for frames in messages:
            socket_.send_multipart(frames)


def children(pid: int) -> set[int]:
    return {int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()}


def test_garbage_at_every_inbox_and_link_is_dropped(mesh: RealMesh) -> None:
    services = children(mesh.process.pid)
    found = set().union(*(ports(pid) for pid in services)) - {urlsplit(mesh.url).port}
    assert len(found) >= len(services) + 4 * 3, "an inbox each, and three links per prefill worker"
    for port in found:
        with socket.create_connection(("127.0.0.1", port), 10) as raw:
            raw.sendall(b"GET / HTTP/1.0\r\n\r\n")
        push(port, GARBAGE)
    assert children(mesh.process.pid) == services


def test_messages_of_strangers_change_nothing(mesh: RealMesh) -> None:
    """Well-formed messages about requests, members and lives that nobody knows."""
    encoded = [CONTROL.encode(message) for message in STRANGE]
    for pid in children(mesh.process.pid):
        for port in ports(pid) - {urlsplit(mesh.url).port}:
            push(port, encoded)


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGKILL])
def test_the_end_of_the_launcher_leaves_nothing(
    end: signal.Signals, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model_path: Path
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    with running_mesh("--prefill", "1") as small:
        services = children(small.process.pid)
        assert len(services) == 5
        assert list(tmp_path.iterdir())
        small.process.send_signal(end)
        small.process.wait(30)
        deadline = time.monotonic() + 30
        while any(Path(f"/proc/{pid}").exists() for pid in services):
            assert time.monotonic() < deadline
            time.sleep(0.1)
    assert not list(tmp_path.iterdir())
