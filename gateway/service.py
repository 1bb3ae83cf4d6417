"""The gateway as a service: the inbox loop, the membership and the HTTP server of one process."""

import asyncio

from aiohttp import web

from common.errors import ConfigError
from common.messages import PROTOCOL, ClusterState, GatewayFacts, Hello, ModelCard
from common.model_card import read_card
from common.service import Membership, Process
from gateway import app
from gateway.calls import Calls
from gateway.figures import Figures
from gateway.generation import Generation
from gateway.readiness import Readiness
from gateway.tokenizer import Tokenizer


class Gateway:
    """The parts of one gateway and the loop that feeds them."""

    def __init__(self, process: Process, card: ModelCard, tokenizer: Tokenizer) -> None:
        figures = self._figures = Figures(process.metrics, card.name)
        self._process = process
        self._calls = Calls(process, figures)
        self._readiness = Readiness()
        self._moving = False
        hello = Hello("gateway", process.peer, process.node, PROTOCOL, card)
        self._membership = Membership(process, hello, self._facts, self._calls.fence)
        config = process.config.gateway
        generation = Generation(config, card, tokenizer, self._calls, self._readiness, figures)
        probes = app.Probes(card, self._is_moving, self._joined, process.metrics.render)
        self.app = app.build(config, generation, probes, figures)

    async def run(self, runner: web.AppRunner) -> None:
        """Serve until cancelled; the mesh is read until the last open request has ended."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._membership.run())
            group.create_task(self._read())
            try:
                await self._listen(runner)
                await asyncio.Event().wait()
            finally:
                await runner.cleanup()

    async def _listen(self, runner: web.AppRunner) -> None:
        config = self._process.config.gateway
        await runner.setup()
        try:
            await web.TCPSite(runner, config.host, config.port).start()
        except OSError as error:
            where = f"{config.host}:{config.port}"
            raise ConfigError(f"gateway.host, gateway.port: cannot listen on {where}") from error
        for host, port, *_ in runner.addresses:
            self._process.log.info("listening", host=host, port=port)

    async def _read(self) -> None:
        self._moving = True
        try:
            while True:
                message, _ = await self._process.mesh.receive()
                if self._membership.receive(message):
                    continue
                if isinstance(message, ClusterState):
                    self._readiness.receive(message, self._process.clock.now())
                    self._figures.mesh(message)
                else:
                    self._calls.receive(message)
        finally:
            self._moving = False

    def _facts(self) -> GatewayFacts:
        return GatewayFacts(streams=len(self._calls))

    def _is_moving(self) -> bool:
        return self._moving

    def _joined(self) -> tuple[list[str], dict[str, int]]:
        now = self._process.clock.now()
        return self._readiness.missing(now), self._readiness.members()


async def serve(process: Process) -> None:
    """Serve HTTP until cancelled.

    Raises:
        ConfigError: no model or tokenizer at `model.path`, an address that cannot be bound, or
            a router that refuses this gateway.
    """
    card = read_card(process.config.model)
    tokenizer = Tokenizer(process.config.model.path)
    gateway = Gateway(process, card, tokenizer)
    try:
        await gateway.run(app.runner(gateway.app))
    finally:
        tokenizer.close()
