"""One client of a mesh: a streamed completion in a thread, with the time of every token.

Times are the wall clock's, as in the services' logs, so that both can be compared.
"""

import http.client
import json
import socket
import struct
import threading
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from difflib import SequenceMatcher
from itertools import pairwise
from typing import Any
from urllib.parse import urlsplit

SILENCE = 180.0
"""Seconds without a byte, pings included, after which a stream counts as stuck."""
SEGMENT = 536
"""Bytes, for a client with a small buffer."""
RESET = struct.pack("ii", 1, 0)


def now() -> float:
    """Seconds of the wall clock."""
    return datetime.now(UTC).timestamp()


@dataclass(frozen=True)
class Request:
    """What a client asks for; without a seed it is greedy."""

    prompt: str
    max_tokens: int = 16
    seed: int | None = None
    plan: str | None = field(default=None, compare=False)
    top: int = 1
    """Alternatives with each token, which make its event larger."""

    def body(self) -> bytes:
        """The JSON of `/v1/completions`."""
        greedy = {"temperature": 0}
        seeded = {"temperature": 0.9, "top_p": 0.95, "seed": self.seed}
        return json.dumps(
            {
                "model": "smollm2",
                "prompt": self.prompt,
                "max_tokens": self.max_tokens,
                "ignore_eos": True,
                "logprobs": self.top,
                "stream": True,
                "stream_options": {"include_usage": True},
                **(greedy if self.seed is None else seeded),
            }
        ).encode()


@dataclass
class Answer:
    """All that came back."""

    name: str = ""
    """The request's name in the mesh, known with its first token."""
    status: int = 0
    tokens: list[str] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    text: str = ""
    finishes: list[str] = field(default_factory=list)
    usage: dict[str, Any] | None = None
    dones: int = 0
    error: str = ""
    """What the server said went wrong."""
    broken: str = ""
    """How the connection ended too early."""

    @property
    def wrong(self) -> str:
        """Why this is no whole answer; empty when it is one."""
        if self.error or self.broken:
            return f"{self.status} {self.error or self.broken}, {len(self.tokens)} tokens came"
        return "" if self.dones == 1 else f"{self.dones} [DONE]"

    def take(self, line: bytes) -> None:
        """Take one line of the stream."""
        if line.startswith(b"data: [DONE]"):
            self.dones += 1
        elif line.startswith(b"data: "):
            self._take_event(json.loads(line[6:]), now())

    def _take_event(self, event: dict[str, Any], at: float) -> None:
        if "error" in event:
            self.error = str(event["error"]["message"])
            return
        self.name = event["id"]
        self.usage = event.get("usage", self.usage)
        for choice in event["choices"]:
            self.text += choice["text"]
            self.tokens += choice["logprobs"]["tokens"]
            self.times += [at] * len(choice["logprobs"]["tokens"])
            if choice["finish_reason"]:
                self.finishes.append(choice["finish_reason"])


@dataclass(frozen=True)
class Difference:
    """How the tokens of a disturbed stream differ from those of the undisturbed one."""

    lost: int = 0
    duplicated: int = 0
    changed: int = 0

    def __bool__(self) -> bool:
        return self != NONE

    def __add__(self, other: "Difference") -> "Difference":
        return Difference(
            self.lost + other.lost,
            self.duplicated + other.duplicated,
            self.changed + other.changed,
        )


NONE = Difference()


def compare(expected: list[str], got: list[str]) -> Difference:
    """Tokens that are missing, that are there in excess, and that stand for others."""
    lost = duplicated = changed = 0
    for tag, i, j, k, m in SequenceMatcher(None, expected, got, autojunk=False).get_opcodes():
        if tag == "equal":
            continue
        paired = min(j - i, m - k)
        changed += paired
        lost += j - i - paired
        duplicated += m - k - paired
    return Difference(lost, duplicated, changed)


class Stream:
    """A request under way.

    Args:
        pause: seconds that this client waits before it reads each line.
        receive_buffer: bytes that the kernel takes for a client that does not read.
    """

    def __init__(
        self, url: str, request: Request, pause: float = 0.0, receive_buffer: int | None = None
    ) -> None:
        where = urlsplit(url)
        self.request = request
        self.answer = Answer()
        self.started = now()
        self.ended = 0.0
        self._door = (str(where.hostname), int(where.port or 0))
        self._pause = pause
        self._receive_buffer = receive_buffer
        self._socket: socket.socket | None = None
        self._left = False
        self._hurried = threading.Event()
        self._news = threading.Condition()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    @property
    def has_left(self) -> bool:
        """Whether this client went away."""
        return self._left

    @property
    def is_over(self) -> bool:
        """Whether nothing more will come."""
        return not self._thread.is_alive()

    def join(self, limit: float = SILENCE) -> Answer:
        """The answer once it is whole or broken."""
        self._thread.join(limit)
        assert self.is_over, f"stuck after {len(self.answer.tokens)} tokens, {limit:.0f} s later"
        return self.answer

    def await_tokens(self, count: int, limit: float = SILENCE) -> None:
        """Until so many tokens have come."""
        deadline = time.monotonic() + limit
        with self._news:
            while len(self.answer.tokens) < count:
                assert not self.is_over, self.answer.wrong or "ended early"
                assert self._news.wait(max(0.0, deadline - time.monotonic())), "no token comes"

    def leave(self, reset: bool = False) -> None:
        """Go away without a word, or with a TCP reset."""
        self._left = True
        if self._socket is not None:
            if reset:
                self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            try:
                self._socket.shutdown(socket.SHUT_RDWR)
            except OSError:
                return

    def hurry(self) -> None:
        """Read what there is from now on without any pause."""
        self._hurried.set()

    def silence_after(self, moment: float) -> float | None:
        """The longest wait for a token from a moment on, in seconds; None when none was to come."""
        later = [moment, *(at for at in self.answer.times if at > moment)]
        return max((after - before for before, after in pairwise(later)), default=None)

    def _run(self) -> None:
        try:
            self._exchange()
        except (OSError, http.client.HTTPException, ValueError) as error:
            if not self._left:
                self.answer.broken = f"{type(error).__name__}: {error}"
        finally:
            self.ended = now()
            with self._news:
                self._news.notify_all()

    def _exchange(self) -> None:
        connection = http.client.HTTPConnection(*self._door, timeout=SILENCE)
        with self._connected() as self._socket:
            connection.sock = self._socket
            headers = {"content-type": "application/json", "connection": "close"}
            if self.request.plan is not None:
                headers["x-tetris-plan"] = self.request.plan
            connection.request("POST", "/v1/completions", self.request.body(), headers)
            reply = connection.getresponse()
            self.answer.status = reply.status
            if reply.status == 200:
                self._read(reply)
            else:
                self.answer.error = json.loads(reply.read())["error"]["message"]

    def _connected(self) -> socket.socket:
        made = socket.socket()
        if self._receive_buffer is not None:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, self._receive_buffer)
            # The server's kernel buffers so many segments, which are huge on the loopback.
            made.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, SEGMENT)
        made.settimeout(SILENCE)
        try:
            made.connect(self._door)
        except OSError:
            made.close()
            raise
        return made

    def _read(self, reply: http.client.HTTPResponse) -> None:
        while line := reply.readline():
            self.answer.take(line)
            with self._news:
                self._news.notify_all()
            if self._pause:
                self._hurried.wait(self._pause)
        if not self.answer.dones and not self._left:
            self.answer.broken = "the stream ended without [DONE]"
