"""The whole control plane in one process and in virtual time.

Real router, broker, workers' control sides and gateway calls over a memory network; engines are
emulated, and the HTTP door is left out. Everything random comes from the cluster's seed.
"""

import asyncio
import json
import random
from array import array
from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import structlog

from common.clock import LoopClock
from common.config import (
    Config,
    DecodeConfig,
    GatewayConfig,
    MeshConfig,
    ModelConfig,
    PrefillConfig,
    RouterConfig,
)
from common.emulated_links import EmulatedLinks
from common.emulated_model import EmulatedModel, StepCost
from common.latency import LatencyModel
from common.memory_transport import Faults, MemoryNetwork
from common.mesh import Mesh
from common.messages import (
    PROTOCOL,
    Accepted,
    ControlMessage,
    DecodeFacts,
    Ending,
    Failed,
    Hello,
    KvLayout,
    LinkMessage,
    Peer,
    PrefillFacts,
    RingReady,
    Role,
)
from common.metrics import Metrics
from common.model_card import read_card
from common.service import Membership, Process
from gateway.calls import Calls
from gateway.figures import Figures
from gateway.streams import Stream
from services.decode_worker import emulated as decode
from services.kv_transfer.service import Broker, lend
from services.prefill_worker import emulated as prefill
from services.router.router import Router
from services.router.service import route
from tests.simulation.questions import Question

LATENCY = "a100-llama3-8b"
LLAMA3_8B = KvLayout(num_layers=32, num_kv_heads=8, head_dim=128, dtype="bfloat16")
A100 = StepCost(step=0.008, request=1e-4, token=6.5e-8)
"""16 GB of weights and 128 KiB of KV per token, read at 2 TB/s."""
BANDWIDTH = 25e9
"""Bytes per second of one 200 Gb/s card."""
MAX_MODEL_LEN = 131072
SETTLE = 120.0
"""Virtual seconds for everything to be let go of after the last answer."""


@dataclass(frozen=True)
class Cluster:
    """What is emulated; the defaults have room for everything."""

    num_prefill: int = 16
    num_nodes: int = 2
    num_decode: int = 2
    prefill_tokens: int = 4_000_000
    decode_tokens: int = 16_000_000
    backends: int = 8
    error: float = 0.0
    faults: Faults = field(default_factory=Faults)
    link_loss: float = 0.0
    seed: int = 0


@dataclass(frozen=True)
class Answer:
    """What came back; seconds from the request's arrival."""

    tokens: tuple[int, ...]
    ttft: float
    total: float


class Silent:
    """A detokenizer of a model that says nothing."""

    def push(self, token_id: int) -> str:
        """No text."""
        return ""

    def flush(self) -> str:
        """No text."""
        return ""


class World:
    """One cluster; what is to be looked at is public."""

    def __init__(self, path: Path, cluster: Cluster) -> None:
        rng = random.Random(cluster.seed)
        self.cluster = cluster
        self.network = MemoryNetwork(random.Random(rng.random()), cluster.faults)
        self.links = EmulatedLinks(BANDWIDTH, loses=self._loses)
        latency = LatencyModel.load(LATENCY)
        self.model = EmulatedModel(LLAMA3_8B, latency, A100, cluster.error, rng.getrandbits(32))
        self.predicted: dict[str, float] = {}
        """TTFT as the router told it, for requests that did not have to wait."""
        self.num_retries = 0
        self._waited: set[str] = set()
        self._rng = rng
        self._config = _config(_directory(path), cluster)
        self._meshes: list[Mesh] = []
        router = self._process("router", "router", at=self._config.mesh.router)
        broker = self._process("kv-transfer", "broker")
        self.router = Router(router.config, router.peer, router.mesh.send)
        self.broker = Broker(broker)
        self._gateway = self._process("gateway", "gateway")
        self.calls = Calls(self._gateway, Figures(self._gateway.metrics, "emulated"))
        self._runs = [route(router, self.router), lend(broker, self.broker), self._listen()]
        self._runs += self._workers()

    @property
    def decode_facts(self) -> list[DecodeFacts]:
        """The last heartbeat of every decode instance."""
        facts = [member.facts for member in self.router.books.registry.of("decode-worker")]
        return [one for one in facts if isinstance(one, DecodeFacts)]

    @property
    def prefill_facts(self) -> list[PrefillFacts]:
        """The last heartbeat of every prefill instance."""
        facts = [member.facts for member in self.router.books.registry.of("prefill-worker")]
        return [one for one in facts if isinstance(one, PrefillFacts)]

    def holdings(self) -> list[str]:
        """Everything that is still held of any request, by the books and by heartbeats."""
        facts = [*self.prefill_facts, *self.decode_facts]
        held = [f"{one}" for one in facts if one.held or one.free_slots != one.total_slots]
        if not self.router.books.quiescent():
            held.append("books of the router")
        if not self.broker.quiescent():
            held.append("backends")
        return held

    def expected(self, question: Question) -> tuple[int, ...]:
        """The tokens of the right answer."""
        start, sampling = question.length, question.sampling()
        positions = range(start, start + question.max_tokens)
        return tuple(self.model.sample(sampling, position).id for position in positions)

    async def ask(self, question: Question) -> Answer:
        """Send a request and wait for the whole answer.

        Raises:
            Refusal: the mesh cannot answer.
        """
        now = self._gateway.clock.now
        prompt = array("i", bytes(4 * question.length))
        ending = Ending(question.max_tokens)
        stream = Stream(prompt, question.sampling(), ending, (), Silent())
        name = question.name
        with self.calls.place() as arrival, self.calls.open(name, stream, None, arrival) as call:
            await call.accepted()
            await call.pieces()
            first = now()
            while stream.finish is None:
                await call.pieces()
        tokens = tuple(token.id for token in stream.emitted)
        return Answer(tokens, first - arrival, now() - arrival)

    async def ask_all(self, questions: Sequence[Question]) -> dict[str, Answer]:
        """Answers to all questions, each asked when its time has come."""
        answers: dict[str, Answer] = {}

        async def one(question: Question) -> None:
            await self._gateway.clock.sleep(question.arrival)
            answers[question.name] = await self.ask(question)

        async with asyncio.TaskGroup() as group:
            for question in questions:
                group.create_task(one(question))
        return answers

    async def settled(self) -> list[str]:
        """What is held once everything has been let go of, or after a long wait."""
        clock = self._gateway.clock
        deadline = clock.now() + SETTLE
        while (held := self.holdings()) and clock.now() < deadline:
            await clock.sleep(0.5)
        return held

    @asynccontextmanager
    async def running(self) -> AsyncIterator["World"]:
        """All services up and joined."""
        async with asyncio.TaskGroup() as group:
            runs = [*(mesh.run() for mesh in self._meshes), *self._runs]
            tasks = [group.create_task(run) for run in runs]
            await self._joined()
            yield self
            for task in reversed(tasks):
                task.cancel()
        for mesh in self._meshes:
            await mesh.close()

    async def _joined(self) -> None:
        clock, cluster = self._gateway.clock, self.cluster
        wanted = cluster.num_prefill + cluster.num_decode
        while len(self.prefill_facts) + len(self.decode_facts) < wanted:
            await clock.sleep(0.1)

    def _workers(self) -> list[Coroutine[None, None, None]]:
        cluster, runs = self.cluster, []
        for number in range(cluster.num_prefill):
            node = f"node-{number * cluster.num_nodes // cluster.num_prefill}"
            process = self._process("prefill-worker", f"prefill-{number}", node)
            runs.append(prefill.serve(process, self.model, self.links))
        for number in range(cluster.num_decode):
            process = self._process("decode-worker", f"decode-{number}", f"node-{number}")
            runs.append(decode.serve(process, self.model, self.links))
        return runs

    async def _listen(self) -> None:
        process = self._gateway
        card = read_card(process.config.model)
        hello = Hello("gateway", process.peer, process.node, PROTOCOL, card)
        membership = Membership(process, hello, self.calls.facts, self.calls.fence)
        async with asyncio.TaskGroup() as group:
            group.create_task(membership.run())
            group.create_task(self.calls.run())
            while True:
                message, _ = await process.mesh.receive()
                self._note(message)
                if not membership.receive(message):
                    self.calls.receive(message)

    def _note(self, message: ControlMessage) -> None:
        match message:
            case Accepted(request=request, predicted_ttft=float() as seconds):
                if request not in self._waited:
                    self.predicted.setdefault(request, seconds)
            case Accepted(request=request):
                self._waited.add(request)
            case Failed():
                self.num_retries += 1

    def _process(self, role: Role, name: str, node: str = "node-0", at: str = "") -> Process:
        clock, metrics = LoopClock(), Metrics()
        transport = self.network.bind(at or f"mem://{name}")
        mesh = Mesh(transport, self._config.mesh, metrics, clock)
        self._meshes.append(mesh)
        log = structlog.make_filtering_bound_logger(50)(None, [], {})
        peer = Peer(name, len(self._meshes), mesh.inbox)
        return Process(self._config, mesh, clock, metrics, log, peer, node)

    def _loses(self, message: LinkMessage) -> bool:
        # A ring has no way to repeat itself: its link is a reliable one.
        is_ring = isinstance(message, RingReady)
        return not is_ring and self._rng.random() < self.cluster.link_loss


def _directory(path: Path) -> str:
    """A model as far as its card goes."""
    (path / "config.json").write_text(json.dumps({"max_position_embeddings": MAX_MODEL_LEN}))
    (path / "model.safetensors").write_bytes(b"")
    return str(path)


def _config(path: str, cluster: Cluster) -> Config:
    return Config(
        model=ModelConfig(path=path, name="emulated"),
        mesh=MeshConfig(router="mem://router"),
        gateway=GatewayConfig(),
        router=RouterConfig(latency=LATENCY),
        prefill=PrefillConfig(kv_tokens=cluster.prefill_tokens),
        decode=DecodeConfig(kv_tokens=cluster.decode_tokens, backends=cluster.backends),
    )
