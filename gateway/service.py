"""The gateway as a service: the inbox loop, the membership and the HTTP server of one process."""

import asyncio

from aiohttp import web

from common.errors import ConfigError
from common.messages import PROTOCOL, ClusterState, GatewayFacts, Hello, ModelCard
from common.model_card import read_card
from common.service import Membership, Process
from gateway import app, control
from gateway.calls import Calls
from gateway.figures import Figures
from gateway.generation import Generation
from gateway.otlp import Otlp
from gateway.panes import Panes
from gateway.questions import Questions
from gateway.readiness import Readiness
from gateway.schedule import KnownSchedule
from gateway.tokenizer import Tokenizer
from gateway.window import Window


class Gateway:
    """The parts of one gateway and the loop that feeds them."""

    def __init__(self, process: Process, card: ModelCard, tokenizer: Tokenizer) -> None:
        config = process.config.gateway
        figures = self._figures = Figures(
            process.metrics, card.name, card.max_model_len, config.metrics_compat
        )
        self._process = process
        self._calls = Calls(process, figures)
        otlp = Otlp(config.otlp, process.peer.name) if config.otlp else None
        self._window = Window(process.clock, figures, self._calls.journeys, otlp)
        self._schedule = KnownSchedule()
        self._questions = Questions(process, self._schedule)
        self._readiness = Readiness()
        self._moving = False
        hello = Hello("gateway", process.peer, process.node, PROTOCOL, card)
        self._membership = Membership(process, hello, self._facts, self._calls.fence)
        generation = Generation(config, card, tokenizer, self._calls, self._readiness, figures)
        stopping, render = process.stopping.is_set, process.metrics.render
        probes = app.Probes(card, self._is_moving, self._joined, stopping, render)
        self._public = app.runner(app.build(config, generation, probes, figures))
        panes = Panes(self._window, self._questions, card.name)
        self._control = app.runner(control.build(self._questions, figures, panes))

    async def run(self) -> None:
        """Serve until cancelled; what is open then is told that there is no time left."""
        config = self._process.config.gateway
        async with asyncio.TaskGroup() as group:
            for loop in (self._membership.run(), self._calls.run(self._membership), self._read()):
                group.create_task(loop)
            try:
                operators = f"{config.control_host}:{config.control_port}"
                await self._listen(self._control, operators, "gateway.control_")
                site = await self._listen(self._public, f"{config.host}:{config.port}", "gateway.")
                await self._process.stopping.wait()
                # New connections are refused, and those that are open end with their requests.
                await site.stop()
                await asyncio.Event().wait()
            finally:
                self._calls.abandon()
                await self._public.cleanup()
                await self._control.cleanup()
                self._window.close()

    async def _listen(self, runner: web.AppRunner, where: str, keys: str) -> web.TCPSite:
        host, _, port = where.rpartition(":")
        await runner.setup()
        site = web.TCPSite(runner, host, int(port))
        try:
            await site.start()
        except OSError as error:
            message = f"{keys}host, {keys}port: cannot listen on {where}"
            raise ConfigError(message) from error
        for bound, number, *_ in runner.addresses:
            self._process.log.info("listening", host=bound, port=number)
        return site

    async def _read(self) -> None:
        self._moving = True
        try:
            while True:
                message, _ = await self._process.mesh.receive()
                self._schedule.receive(message)
                if self._membership.receive(message) or self._questions.receive(message):
                    continue
                if self._window.receive(message):
                    continue
                if isinstance(message, ClusterState):
                    self._readiness.receive(message, self._process.clock.now())
                    self._figures.mesh(message)
                else:
                    self._calls.receive(message)
        finally:
            self._moving = False

    def _facts(self) -> GatewayFacts:
        welcome = self._membership.welcome
        epoch = None if welcome is None else welcome.epoch
        return self._schedule.add_to(self._calls.facts(), epoch)

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
    try:
        await Gateway(process, card, tokenizer).run()
    finally:
        tokenizer.close()
