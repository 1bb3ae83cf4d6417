"""The gateway as a service: the inbox loop, the membership and the HTTP server of one process."""

import asyncio
import gc

from common.errors import ConfigError
from common.messages import PROTOCOL, ClusterState, GatewayFacts, Hello, ModelCard
from common.model_card import read_card
from common.service import Membership, Process
from gateway import app, control
from gateway.api.generation import Generation
from gateway.api.openapi import Document
from gateway.api.probes import Probes, Sights
from gateway.api.tokenizer import Tokenizer
from gateway.api.tokens import Tokens
from gateway.doors.connections import Limits, make_room
from gateway.doors.door import Door
from gateway.doors.guard import control_guards, public_guards
from gateway.figures import Figures
from gateway.mesh.calls import Calls
from gateway.mesh.progress import Progress
from gateway.mesh.questions import Questions
from gateway.mesh.readiness import Readiness
from gateway.mesh.schedule import KnownSchedule
from gateway.window.otlp import Otlp
from gateway.window.panes import Panes
from gateway.window.window import Window

OPERATORS = 64
"""Connections at the operators' door."""


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
        config = process.config.gateway
        self._progress = Progress(config.health_timeout)
        hello = Hello("gateway", process.peer, process.node, PROTOCOL, card)
        self._membership = Membership(process, hello, self._facts, self._calls.fence)
        routes = app.Routes(
            Generation(config, card, tokenizer, self._calls, self._readiness, figures),
            Tokens(card, tokenizer, self._calls.place, asyncio.Semaphore(1)),
            Probes(card, self._sights()),
            Document(card, tokenizer.size, has_keys=config.keys is not None),
        )
        now = process.clock.now
        public = app.build(config, routes, figures, public_guards(config, now))
        panes = Panes(self._window, self._questions, card.name)
        guards = control_guards(config, now)
        operators = control.build(self._questions, figures, panes, guards)
        limits = Limits(
            config.max_connections, config.max_connections_per_host, config.header_timeout
        )
        few = Limits(OPERATORS, OPERATORS, config.header_timeout)
        self._public = Door(app.runner(public), limits, figures)
        self._control = Door(app.runner(operators), few, figures)

    async def run(self) -> None:
        """Serve until cancelled; what is open then is told that there is no time left."""
        config = self._process.config.gateway
        async with asyncio.TaskGroup() as group:
            for loop in (self._membership.run(), self._calls.run(self._membership), self._read()):
                group.create_task(loop)
            try:
                host, port = config.control_host, config.control_port
                await self._listen(self._control, host, port, "gateway.control_")
                await self._listen(self._public, config.host, config.port, "gateway.")
                await self._process.stopping.wait()
                self._public.shut()
                await asyncio.Event().wait()
            finally:
                self._calls.abandon()
                await self._public.close()
                await self._control.close()
                self._window.close()

    async def _listen(self, door: Door, host: str, port: int, keys: str) -> None:
        try:
            bound = await door.open(host, port)
        except OSError as error:
            message = f"{keys}host, {keys}port: cannot listen on {host}:{port}"
            raise ConfigError(message) from error
        for address, number in bound:
            self._process.log.info("listening", host=address, port=number)

    async def _read(self) -> None:
        self._moving = True
        try:
            while True:
                message, _ = await self._process.mesh.receive()
                self._progress.receive(message, self._process.clock.now())
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
        return self._schedule.add_to(self._look(), epoch)

    def _look(self) -> GatewayFacts:
        facts = self._calls.facts()
        self._progress.see(facts.streams, facts.open, self._process.clock.now())
        return facts

    def _sights(self) -> Sights:
        return Sights(
            trouble=self._trouble,
            joined=self._joined,
            load=lambda: self._calls.facts().streams,
            stopping=self._process.stopping.is_set,
            render=self._process.metrics.render,
        )

    def _trouble(self) -> str | None:
        if not self._moving:
            return "the mesh is not read"
        self._look()
        return self._progress.trouble(self._process.clock.now())

    def _joined(self) -> tuple[list[str], dict[str, int]]:
        now = self._process.clock.now()
        return self._readiness.missing(now), self._readiness.members()


async def serve(process: Process) -> None:
    """Serve HTTP until cancelled.

    Raises:
        ConfigError: no model or tokenizer at `model.path`, an address that cannot be bound, or
            a router that refuses this gateway.
    """
    make_room(process.config.gateway.max_connections)
    card = read_card(process.config.model)
    tokenizer = Tokenizer(process.config.model.path)
    # It stays as well: a collection that walks through it holds up every stream for 50 ms.
    gc.collect()
    gc.freeze()
    try:
        await Gateway(process, card, tokenizer).run()
    finally:
        tokenizer.close()
