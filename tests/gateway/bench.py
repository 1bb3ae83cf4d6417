"""The whole gateway over an in-memory mesh, with a fake router that answers like the real ones."""

import asyncio
import json
import random
import socket
from array import array
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path

import aiohttp
import structlog

from common.clock import LoopClock
from common.config import Config, GatewayConfig, MeshConfig, ModelConfig
from common.memory_transport import MemoryNetwork
from common.mesh import Mesh
from common.messages import (
    Accepted,
    Alternative,
    Ask,
    ClusterState,
    ControlMessage,
    Drain,
    FirstToken,
    GatewayFacts,
    Goodbye,
    Heartbeat,
    Hello,
    Leave,
    Peer,
    PromptScores,
    Score,
    Submit,
    Token,
    TokenBatch,
    Update,
    Welcome,
)
from common.metrics import Metrics
from common.service import Process
from gateway import service
from gateway.api.tokenizer import Tokenizer
from gateway.mesh.questions import Question

ROUTER = "memory:router"
DECODE = Peer("decode-0", 1, ROUTER)
"""The fake mesh answers for decode too."""


Reply = Callable[["FakeMesh", Submit, list[int]], None]


class FakeMesh:
    """Router, prefill and decode in one; `reply` says what a Submit brings."""

    def __init__(self, mesh: Mesh, tokenizer: Tokenizer, reply: Reply) -> None:
        self.seen: asyncio.Queue[ControlMessage] = asyncio.Queue()
        self.state: ClusterState | None = ClusterState(
            5, num_prefill=1, num_decode=1, num_brokers=1, waiting=0
        )
        self.tokenizer = tokenizer
        self.submits: list[Submit] = []
        self.arrived = asyncio.Event()
        self.questions: list[Question] = []
        self.answer: Callable[[Question], ControlMessage] | None = None
        self._beaten = asyncio.Event()
        self._leaving: int | None = None
        self.facts = GatewayFacts(0)
        """Of the last heartbeat."""
        self._mesh = mesh
        self._reply = reply

    async def run(self) -> None:
        while True:
            message, frames = await self._mesh.receive()
            match message:
                case Ask() | Drain() | Update():
                    self._ask(message)
                case Submit():
                    self.submits.append(message)
                    self.arrived.set()
                    ids = array("i", bytes(frames[0])).tolist()
                    assert len(ids) == message.num_tokens
                    self._reply(self, message, ids)
                case _ if not self._member(message):
                    self.seen.put_nowait(message)

    async def until(self, holds: Callable[[], bool]) -> None:
        """Look again with every heartbeat."""
        while not holds():
            self._beaten.clear()
            await self._beaten.wait()

    def _member(self, message: ControlMessage) -> bool:
        match message:
            case Hello(peer=peer):
                self._gateway = peer.inbox
                self.send(Welcome(5, peer.incarnation))
                if self.state is not None:
                    self.send(self.state)
            case Heartbeat(facts=GatewayFacts() as facts):
                self.facts = facts
                if self.state is not None:
                    self.send(self.state)
                self._beaten.set()
                # As the router does: what a member said before it asked to go proves nothing.
                if self._leaving is not None and facts.idle:
                    self.send(Goodbye(self._leaving))
            case Leave(incarnation=incarnation):
                self._leaving = incarnation
            case _:
                return False
        return True

    def _ask(self, question: Question) -> None:
        self.questions.append(question)
        if self.answer is not None:
            self._mesh.send(question.reply, self.answer(question))

    def send(self, message: ControlMessage) -> None:
        self._mesh.send(self._gateway, message)

    def tokens(self, submit: Submit, text: str, finish: str = "stop") -> None:
        """First token, then each again in a batch of its own, then the end."""
        ids = self.tokenizer._tokenizer.encode(text)
        ends = [None] * len(ids) if finish == "stop" else [None] * (len(ids) - 1) + [finish]
        if finish == "stop":
            ids, ends = [*ids, 1], [*ends, "stop"]
        start = submit.num_emitted
        wanted = submit.sampling.logprobs
        top = (Alternative(ids[0], -0.5), Alternative(ids[-1], -1.5))[: max(wanted, 0)]
        logprob = -0.5 if wanted >= 0 else None
        tokens = [
            Token(submit.request, submit.attempt, start + i, token_id, logprob, top, end)
            for i, (token_id, end) in enumerate(zip(ids, ends, strict=True))
        ]
        self.send(FirstToken(tokens[0], DECODE))
        for token in tokens:
            self.send(TokenBatch(DECODE, (token,)))


def scores(submit: Submit, ids: list[int], size: int = 4) -> list[PromptScores]:
    """All scores of an attempt's prompt, a few in each message: told from position and id."""
    top = max(submit.prompt_logprobs, 0)
    known = [score(position, ids[position], top) for position in range(1, len(ids))]
    return [
        PromptScores(submit.request, submit.attempt, start + 1, tuple(known[start:][:size]), ROUTER)
        for start in range(0, len(known), size)
    ]


def score(position: int, token_id: int, top: int) -> Score:
    """At even positions the token is the likeliest one."""
    own = Alternative(token_id, -position / 100)
    others = [Alternative(7 + i, -position / 100 - 0.5 - i) for i in range(top)]
    if position % 2:
        others = [Alternative(7 + i, -0.001 - i) for i in range(top)]
    return Score(own.logprob, tuple(others if position % 2 else [own, *others][:top]))


def say(text: str, finish: str = "stop") -> Reply:
    def reply(mesh: FakeMesh, submit: Submit, ids: list[int]) -> None:
        mesh.send(Accepted(submit.request, submit.attempt))
        mesh.tokens(submit, text, finish)

    return reply


def accept(mesh: FakeMesh, submit: Submit, ids: list[int]) -> None:
    mesh.send(Accepted(submit.request, submit.attempt))


class Client:
    """HTTP against the gateway under test."""

    def __init__(
        self,
        session: aiohttp.ClientSession,
        process: Process,
        mesh: FakeMesh,
    ) -> None:
        config = process.config.gateway
        self.session = session
        self.process = process
        self.port = config.port
        self.url = f"http://127.0.0.1:{config.port}"
        self.control = f"http://127.0.0.1:{config.control_port}"
        self.mesh = mesh

    async def post(self, path: str, body: object, **headers: str) -> tuple[int, dict, object]:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        headers = {"Content-Type": "application/json"} | headers
        async with self.session.post(self.url + path, data=data, headers=headers) as answer:
            raw = await answer.text()
            decoded = raw if answer.content_type == "text/event-stream" else json.loads(raw)
            return answer.status, decoded, answer.headers

    async def get(self, path: str, method: str = "GET") -> tuple[int, str, object]:
        async with self.session.request(method, self.url + path) as answer:
            return answer.status, await answer.text(), answer.headers


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


Scenario = Callable[[Client], Awaitable[None]]


class Bench:
    """Runs one scenario against a gateway with a fake mesh."""

    def __init__(self, model_path: Path, tokenizer: Tokenizer) -> None:
        self.model_path = model_path
        self.tokenizer = tokenizer
        self.patience = 20.0
        """Seconds for a scenario."""

    def __call__(self, reply: Reply, scenario: Scenario, **gateway: object) -> None:
        asyncio.run(self._run(reply, scenario, gateway))

    async def _run(self, reply: Reply, scenario: Scenario, settings: dict) -> None:
        settings = {"port": _free_port(), "control_port": _free_port()} | settings
        config = Config(
            model=ModelConfig(path=str(self.model_path), name="tiny"),
            mesh=MeshConfig(router=ROUTER, resend=0.05, heartbeat=0.02),
            gateway=GatewayConfig(**settings),
        )
        network = MemoryNetwork(random.Random(1))
        clock = LoopClock()
        router = Mesh(network.bind(ROUTER), config.mesh, Metrics(), clock)
        metrics = Metrics()
        mesh = Mesh(network.bind("memory:gateway"), config.mesh, metrics, clock)
        peer = Peer("gateway-0", 7, mesh.inbox)
        log = structlog.get_logger()
        process = Process(config, mesh, clock, metrics, log, peer, "node")
        fake = FakeMesh(router, self.tokenizer, reply)
        async with asyncio.TaskGroup() as group, aiohttp.ClientSession() as session:
            loops = [fake.run(), mesh.run(), router.run()]
            tasks = [group.create_task(loop) for loop in loops]
            serving = group.create_task(service.serve(process))
            tasks.append(group.create_task(_until_drained(process, serving)))
            client = Client(session, process, fake)
            async with asyncio.timeout(self.patience):
                await self._until_ready(client)
                await scenario(client)
            serving.cancel()
            with suppress(asyncio.CancelledError):
                await serving
            for task in tasks:
                task.cancel()
        await mesh.close()
        await router.close()

    async def _until_ready(self, client: Client) -> None:
        status = 0
        while status != 200:
            with suppress(aiohttp.ClientConnectorError):
                status, *_ = await client.get("/ready")


async def _until_drained(process: Process, serving: "asyncio.Task[None]") -> None:
    """As `common.service` does."""
    await process.drained.wait()
    serving.cancel()


def events(raw: str) -> list[dict]:
    blocks = raw.split("\n\n")
    assert blocks[-2:] == ["data: [DONE]", ""]
    assert all(block.startswith("data: ") for block in blocks[:-1])
    return [json.loads(block.removeprefix("data: ")) for block in blocks[:-2]]


COMPLETION = {"model": "tiny", "prompt": "hello world", "max_tokens": 40}


CHAT = {"model": "tiny", "messages": [{"role": "user", "content": "hello"}]}
