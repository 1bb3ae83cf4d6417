"""Clients of a simulated mesh, and the gateway's side of their conversations without HTTP."""

import asyncio
from array import array
from contextlib import suppress
from dataclasses import dataclass

from common.messages import PROTOCOL, ClusterState, Ending, GatewayFacts, Hello
from common.model_card import read_card
from common.schedule import ScheduleChange
from common.service import Membership, Process
from gateway.api.choices import Choices
from gateway.api.stops import Stops
from gateway.errors import Refusal
from gateway.figures import Figures
from gateway.mesh.calls import Calls
from gateway.mesh.questions import Questions
from gateway.mesh.readiness import Readiness
from gateway.mesh.schedule import KnownSchedule
from gateway.mesh.streams import Stream
from gateway.window.window import Window
from tests.simulation.history import ANSWERED, CLIENT, Given, History
from tests.simulation.host import Host
from tests.simulation.questions import Question


@dataclass
class Answer:
    """What came back; seconds from the request's arrival."""

    tokens: tuple[int, ...] = ()
    ttft: float = 0.0
    total: float = 0.0
    outcome: str = ""
    predicted: float | None = None
    """TTFT as the router said it when it took the request in."""
    retry_after: float | None = None
    """Of a refusal."""


class Silent:
    """A detokenizer of a model that says nothing."""

    def push(self, token_id: int) -> str:
        """No text."""
        return ""

    def flush(self) -> str:
        """No text."""
        return ""


class Door:
    """A gateway without HTTP: what is left of its service."""

    def __init__(self, process: Process) -> None:
        card = read_card(process.config.model)
        figures = Figures(process.metrics, card.name)
        self.calls = Calls(process, figures)
        self.window = Window(process.clock, figures, self.calls.journeys)
        self.readiness = Readiness()
        self.schedule = KnownSchedule()
        self.questions = Questions(process, self.schedule)
        self._process = process
        hello = Hello("gateway", process.peer, process.node, PROTOCOL, card)
        self._membership = Membership(process, hello, self._facts, self.calls.fence)

    async def run(self) -> None:
        """Serve until cancelled."""
        async with asyncio.TaskGroup() as group:
            for loop in (self._membership.run(), self.calls.run(self._membership), self._read()):
                group.create_task(loop)
            try:
                await asyncio.Event().wait()
            finally:
                self.calls.abandon()

    async def _read(self) -> None:
        while True:
            message, _ = await self._process.mesh.receive()
            self.schedule.receive(message)
            if self._membership.receive(message) or self.questions.receive(message):
                continue
            if self.window.receive(message):
                continue
            if isinstance(message, ClusterState):
                self.readiness.receive(message, self._process.clock.now())
            else:
                self.calls.receive(message)

    def _facts(self) -> GatewayFacts:
        welcome = self._membership.welcome
        return self.schedule.add_to(self.calls.facts(), welcome.epoch if welcome else None)

    async def update(self, change: ScheduleChange) -> None:
        """An operator's wish, which may be refused or stay without an answer."""
        with suppress(Refusal):
            await self.questions.update(change)

    async def converse(self, question: Question, answer: Answer, history: History) -> None:
        """One request from its arrival to its last token or its refusal."""
        try:
            async with asyncio.timeout(self._process.config.gateway.request_timeout):
                await self._converse(question, answer, history)
        except TimeoutError:
            answer.outcome = "refused 504"
        except Refusal as refusal:
            answer.outcome = f"refused {refusal.status}"
            answer.retry_after = refusal.retry_after

    async def _converse(self, question: Question, answer: Answer, history: History) -> None:
        if not self.readiness.known:
            raise Refusal(503, "The server is starting.")
        loop, calls = asyncio.get_running_loop(), self.calls
        prompt = array("i", bytes(4 * question.length))
        ending = Ending(question.max_tokens)
        stream = Stream(prompt, question.sampling(), ending, Stops(), Silent())
        with calls.place() as arrival, calls.open(question.name, stream, None, arrival) as call:
            choices = Choices([call])
            await choices.accepted()
            answer.predicted = choices.predicted
            while not choices.are_finished:
                ((_, pieces),) = await choices.next()
                for piece in pieces:
                    token = piece.token
                    answer.ttft = answer.ttft or loop.time() - arrival
                    answer.tokens += (token.id,)
                    history.note(CLIENT, "took", Given(question.name, token.index, token.id))
        answer.total = loop.time() - arrival
        answer.outcome = ANSWERED


async def serve(host: Host, process: Process) -> None:
    """A gateway's service."""
    host.part = Door(process)
    await host.part.run()
