"""The whole control plane in one process and in virtual time.

Real router, broker, workers' control sides and gateway calls over a memory network; engines are
emulated, and the HTTP door is left out. Everything random comes from the cluster's seed.
"""

import asyncio
import math
import random
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

from common.clock import LoopClock
from common.emulated_model import EmulatedModel
from common.memory_transport import MemoryNetwork
from common.messages import (
    Accepted,
    DecodeFacts,
    Failed,
    LinkMessage,
    PrefillFacts,
    RingAbort,
    RingReady,
    Role,
)
from common.service import Process
from compose.emulated_workers import node_of
from services.decode_worker import emulated as decode
from services.kv_transfer.service import Broker, lend
from services.prefill_worker import emulated as prefill
from services.router.router import Router
from services.router.service import route
from tests.simulation import client
from tests.simulation.checks import Judge
from tests.simulation.client import Answer
from tests.simulation.cluster import Cluster, configuration
from tests.simulation.cuts import Cuts
from tests.simulation.history import (
    ANSWERED,
    CLIENT,
    CUT_OFF,
    LEFT,
    Asked,
    Event,
    History,
    Over,
    TappedLinks,
)
from tests.simulation.host import Host, Serve
from tests.simulation.questions import Question

SETTLE = 120.0
"""Virtual seconds for everything to be let go of after the last answer."""


class World:
    """One cluster; what is to be looked at is public."""

    def __init__(self, path: Path, cluster: Cluster) -> None:
        rng = random.Random(cluster.seed)
        self.cluster = cluster
        self.cuts = Cuts()
        self.history = History()
        self.judge = Judge(cluster.mesh.lease)
        self.history.listeners += [self.judge.take, self._note]
        network_rng = random.Random(rng.random())
        self.network = MemoryNetwork(
            network_rng, cluster.faults, cluster.capacity, self.cuts.reaches
        )
        self._config = configuration(path, cluster)
        self.links = TappedLinks(self._config.emulated.bandwidth, fate=self._fate)
        self.links.history = self.history
        self.link_faults = cluster.link_faults
        """May be replaced at any time, as the network's."""
        model = EmulatedModel.of(self._config)
        latency = model.prefill.scaled(cluster.slowdown)
        self.model = replace(model, prefill=latency, seed=rng.getrandbits(32))
        self.predicted: dict[str, float] = {}
        """TTFT as the router told it at first."""
        self.num_retries = 0
        self.healed = math.inf
        """When the last fault was undone."""
        self._rng = rng
        self._group: asyncio.TaskGroup | None = None
        self.hosts: dict[str, Host] = {name: self._make_host(name) for name in self.names(cluster)}

    @staticmethod
    def names(cluster: Cluster) -> Iterator[str]:
        """Names of all processes of a cluster."""
        yield "router"
        yield from (f"broker-{number}" for number in range(cluster.num_brokers))
        yield from (f"gateway-{number}" for number in range(cluster.num_gateways))
        yield from (f"prefill-{number}" for number in range(cluster.num_prefill))
        yield from (f"decode-{number}" for number in range(cluster.num_decode))

    @property
    def router(self) -> Router:
        """The books of the router's last life."""
        router = self.hosts["router"].part
        assert isinstance(router, Router)
        return router

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

    def of(self, role: Role) -> list[Host]:
        """All hosts of one role."""
        return [host for host in self.hosts.values() if host.role == role]

    def holdings(self) -> list[str]:
        """Everything that is still held of any request, by the books and by heartbeats."""
        facts = [*self.prefill_facts, *self.decode_facts]
        held = [f"{one}" for one in facts if one.held or one.free_slots != one.total_slots]
        if not self.router.books.quiescent():
            held.append("books of the router")
        if any(self.router.books.pool.view(asyncio.get_running_loop().time()).delays):
            held.append("delays of the router")
        brokers = [host for host in self.of("kv-transfer") if host.is_up]
        return held + [f"backends of {one.name}" for one in brokers if not one.part.quiescent()]

    def expected(self, question: Question) -> tuple[int, ...]:
        """The tokens of the right answer."""
        start, sampling = question.length, question.sampling()
        positions = range(start, start + question.max_tokens)
        return tuple(self.model.sample(sampling, position).id for position in positions)

    async def ask(self, question: Question) -> Answer:
        """Send a request and wait for the whole answer, or for whatever ends it.

        The client's patience is the caller's: cancelled, it leaves.
        """
        host, loop = self.hosts[question.gateway], asyncio.get_running_loop()
        answer = Answer()
        self.history.note(CLIENT, "took", Asked(question.name, self.expected(question)))
        outcome = CUT_OFF
        try:
            if host.is_up and host.part is not None:
                over: asyncio.Future[None] = loop.create_future()
                handler = host.spawn(host.part.converse(question, answer, self.history))
                handler.add_done_callback(lambda _: over.done() or over.set_result(None))
                try:
                    await over
                except asyncio.CancelledError:
                    handler.cancel()
                    outcome = LEFT
                    raise
                outcome = answer.outcome or CUT_OFF
        finally:
            self.history.note(CLIENT, "took", Over(question.name, outcome))
        return answer

    async def ask_all(self, questions: Sequence[Question]) -> dict[str, Answer]:
        """Answers to all questions, each asked when its time has come."""
        answers: dict[str, Answer] = {}

        async def one(question: Question) -> None:
            await asyncio.sleep(question.arrival)
            answers[question.name] = await self.ask(question)
            assert answers[question.name].outcome == ANSWERED, answers[question.name].outcome

        async with asyncio.TaskGroup() as group:
            for question in questions:
                group.create_task(one(question))
        return answers

    async def settled(self) -> list[str]:
        """What is held once everything has been let go of, or after a long wait."""
        clock = LoopClock()
        deadline = clock.now() + SETTLE
        while (held := self.holdings()) and clock.now() < deadline:
            await clock.sleep(0.5)
        return held

    def start(self, host: Host) -> None:
        """Let a host's next life begin."""
        assert self._group is not None, "only while running"
        host.start(self._group, self._config, self.network, self.history)

    @asynccontextmanager
    async def running(self) -> AsyncIterator["World"]:
        """All services up and joined."""
        async with asyncio.TaskGroup() as self._group:
            for host in self.hosts.values():
                self.start(host)
            try:
                await self.joined()
                yield self
            finally:
                # Also what stands still, and would otherwise outlast its loop.
                for host in reversed(self.hosts.values()):
                    host.crash()

    async def joined(self) -> None:
        """Wait until all workers and brokers have told their facts."""
        clock = LoopClock()
        while self._num_joined() < len(self.hosts) - 1:
            await clock.sleep(0.1)

    def _num_joined(self) -> int:
        if not self.hosts["router"].is_up or self.hosts["router"].part is None:
            return 0
        registry = self.router.books.registry
        if not all(host.is_up and host.part.readiness.known for host in self.of("gateway")):
            return 0
        roles: tuple[Role, ...] = ("prefill-worker", "decode-worker", "kv-transfer", "gateway")
        return sum(member.facts is not None for role in roles for member in registry.of(role))

    def _make_host(self, name: str) -> Host:
        kind, _, number = name.partition("-")
        role, serve = self._roles[kind]
        node = f"node-{number}" if kind == "decode" else "node-0"
        if kind == "prefill":
            node = node_of(int(number), self.cluster.num_prefill, self.cluster.num_nodes)
        return Host(role, name, node, serve, self.judge.violations.append)

    @property
    def _roles(self) -> dict[str, tuple[Role, Serve]]:
        return {
            "router": ("router", _serve_router),
            "broker": ("kv-transfer", _serve_broker),
            "gateway": ("gateway", client.serve),
            "prefill": ("prefill-worker", self._serve_prefill),
            "decode": ("decode-worker", self._serve_decode),
        }

    async def _serve_prefill(self, host: Host, process: Process) -> None:
        factor = self.cluster.slowdowns.get(host.name, 1.0)
        model = replace(self.model, prefill=self.model.prefill.scaled(factor))
        await prefill.serve(process, model, self.links)

    async def _serve_decode(self, host: Host, process: Process) -> None:
        await decode.serve(process, self.model, self.links)

    def _note(self, event: Event) -> None:
        match event.way, event.message:
            case "took", Accepted(request=request, predicted_ttft=float() as seconds):
                self.predicted.setdefault(request, seconds)
            case "took", Failed(sender=None) if event.where.startswith("mem://gateway"):
                self.num_retries += 1

    def _fate(self, source: str, destination: str, message: LinkMessage) -> list[float]:
        """Of a link message: a ring has no way to repeat itself, so its link is a reliable one."""
        faults = self.link_faults
        if not self.cuts.reaches(source, destination):
            return []
        if isinstance(message, RingReady | RingAbort):
            return [0.0]
        if self._rng.random() < faults.loss:
            return []
        copies = 2 if self._rng.random() < faults.duplication else 1
        return [self._rng.uniform(faults.min_delay, faults.max_delay) for _ in range(copies)]


async def _serve_router(host: Host, process: Process) -> None:
    host.part = Router(process.config, process.peer, process.mesh.send)
    await route(process, host.part)


async def _serve_broker(host: Host, process: Process) -> None:
    host.part = Broker(process)
    await lend(process, host.part)
