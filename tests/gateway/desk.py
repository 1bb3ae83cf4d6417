"""The gateway's calls alone, with time, mesh and model in the test's hands."""

import asyncio
import random
import zlib
from array import array
from collections.abc import Sequence
from contextlib import AbstractContextManager
from types import SimpleNamespace

import structlog

from common import generation
from common.clock import Clock
from common.config import Config, GatewayConfig, ModelConfig
from common.messages import (
    Accepted,
    Alternative,
    ControlMessage,
    Ending,
    FirstToken,
    Peer,
    Sampling,
    Submit,
    Token,
    TokenBatch,
)
from common.metrics import Metrics
from common.service import Process
from gateway.api.stops import Stops
from gateway.figures import Figures
from gateway.mesh.call import Call
from gateway.mesh.calls import Calls
from gateway.mesh.streams import Stream
from tests.gateway.bench import DECODE

EOS = 1


class Letters:
    """Ids are characters."""

    def push(self, token_id: int) -> str:
        return chr(token_id)

    def flush(self) -> str:
        return ""


class Time(Clock):
    """Stands still until it is moved."""

    def __init__(self) -> None:
        self.at = 100.0

    def now(self) -> float:
        return self.at

    def wall(self) -> float:
        return 1_700_000_000.0 + self.at


class Desk:
    """Calls whose messages are collected."""

    def __init__(self, **gateway: object) -> None:
        config = Config(
            model=ModelConfig(path="unused", name="t"), gateway=GatewayConfig(**gateway)
        )
        self.sent: list[tuple[str, ControlMessage]] = []
        self.ids: list[int] = []
        """Of the last Submit."""
        self.time = Time()
        self._spoken = asyncio.Event()
        self._contexts: list[AbstractContextManager[Call]] = []
        log = structlog.wrap_logger(structlog.ReturnLogger())
        mesh = SimpleNamespace(send=self._send)
        peer = Peer("gateway-0", 7, "memory:gateway")
        self.metrics = Metrics()
        self.process = Process(config, mesh, self.time, self.metrics, log, peer, "node")
        self.calls = Calls(self.process, Figures(self.metrics, "tiny"))

    def open(self, stream: Stream | None = None, name: str = "r") -> Call:
        """A call that stays open until `close`."""
        if stream is None:
            stream = Stream([7, 8, 9], Sampling(seed=3), Ending(20), Stops(), Letters())
        self._contexts.append(self.calls.open(name, stream, None, self.time.at))
        return self._contexts[-1].__enter__()

    def close(self) -> None:
        """Close what was opened last."""
        self._contexts.pop().__exit__(None, None, None)

    async def said(self, count: int) -> None:
        """Until so many messages were sent."""
        while len(self.sent) < count:
            self._spoken.clear()
            await self._spoken.wait()

    def take(self) -> list[ControlMessage]:
        """What was sent since the last time."""
        sent, self.sent = [message for _, message in self.sent], []
        return sent

    def receive(self, *messages: ControlMessage) -> None:
        for message in messages:
            self.calls.receive(message)

    def tick(self, seconds: float = 0.0) -> list[ControlMessage]:
        """Let time pass, and what the timer then says."""
        self.take()
        self.time.at += seconds
        self.calls.tick(self.time.at)
        return self.take()

    def stray(self) -> float:
        """Messages that were counted as stray."""
        lines = self.metrics.render().decode().splitlines()
        return sum(
            float(line.split()[-1])
            for line in lines
            if line.startswith("tetris_gateway_stray_messages_total{")
        )

    def _send(self, endpoint: str, message: ControlMessage, *frames: bytes) -> None:
        self.sent.append((endpoint, message))
        self._spoken.set()
        if isinstance(message, Submit):
            self.submit = message
            self.ids = array("i", frames[0]).tolist()
            assert len(self.ids) == message.num_tokens


def first(index: int, letter: str, attempt: int = 1) -> FirstToken:
    return FirstToken(Token("r", attempt, index, ord(letter)), DECODE)


def batch(index: int, letters: str, attempt: int = 1) -> TokenBatch:
    tokens = [Token("r", attempt, index + i, ord(c)) for i, c in enumerate(letters)]
    return TokenBatch(DECODE, tuple(tokens))


def accepted(attempt: int = 1) -> Accepted:
    return Accepted("r", attempt)


def answer(submit: Submit, ids: Sequence[int], words: Sequence[int]) -> list[Token]:
    """All tokens of an attempt: each a pure function of seed, choice, position and what precedes.

    It is drawn from `words`, as the workers do it, with what the Submit says and nothing else.
    """
    sampling, ending, known = submit.sampling, submit.ending, list(ids)
    tokens: list[Token] = []
    while not tokens or tokens[-1].finish is None:
        count = len(tokens)
        key = repr((sampling.seed, sampling.choice, len(known), known)).encode()
        rng = random.Random(zlib.crc32(key))
        allowed = [w for w in words if w not in generation.forbidden(ending, {EOS}, count)]
        token_id = rng.choice(allowed)
        known.append(token_id)
        logprob = -rng.randrange(1, 999) / 1000 if sampling.logprobs >= 0 else None
        top = tuple(Alternative(rng.choice(words), -0.25) for _ in range(sampling.logprobs))
        finish = generation.finish(ending, {EOS}, token_id, count + 1)
        index = submit.num_emitted + count
        tokens.append(Token(submit.request, submit.attempt, index, token_id, logprob, top, finish))
    return tokens
