"""Clients of a simulated mesh, and the gateway's side of their conversations without HTTP."""

import asyncio
from array import array
from dataclasses import dataclass

from common.messages import PROTOCOL, Ending, GatewayFacts, Hello
from common.model_card import read_card
from common.service import Membership, Process
from gateway.calls import Calls
from gateway.errors import Refusal
from gateway.figures import Figures
from gateway.streams import Stream
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


class Silent:
    """A detokenizer of a model that says nothing."""

    def push(self, token_id: int) -> str:
        """No text."""
        return ""

    def flush(self) -> str:
        """No text."""
        return ""


async def converse(calls: Calls, question: Question, answer: Answer, history: History) -> None:
    """One request from its arrival to its last token or its refusal."""
    try:
        await _converse(calls, question, answer, history)
    except Refusal as refusal:
        answer.outcome = f"refused {refusal.status}"


async def _converse(calls: Calls, question: Question, answer: Answer, history: History) -> None:
    loop = asyncio.get_running_loop()
    prompt = array("i", bytes(4 * question.length))
    ending = Ending(question.max_tokens)
    stream = Stream(prompt, question.sampling(), ending, (), Silent())
    with calls.place() as arrival, calls.open(question.name, stream, None, arrival) as call:
        await call.accepted()
        while stream.finish is None:
            for piece in await call.pieces():
                token = piece.token
                if not answer.tokens:
                    answer.ttft = loop.time() - arrival
                answer.tokens += (token.id,)
                history.note(CLIENT, "took", Given(question.name, token.index, token.id))
    answer.total = loop.time() - arrival
    answer.outcome = ANSWERED


async def door(host: Host, process: Process) -> None:
    """A gateway without its HTTP door."""
    card = read_card(process.config.model)
    calls = host.part = Calls(process, Figures(process.metrics, card.name))
    hello = Hello("gateway", process.peer, process.node, PROTOCOL, card)
    membership = Membership(process, hello, lambda: GatewayFacts(len(calls)), calls.fence)
    async with asyncio.TaskGroup() as group:
        group.create_task(membership.run())
        while True:
            message, _ = await process.mesh.receive()
            if not membership.receive(message):
                calls.receive(message)
