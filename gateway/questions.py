"""Questions of operators to the router, and what waits for their answers."""

import asyncio
import secrets
from itertools import count
from typing import TypeVar

from common.messages import Ask, ControlMessage, Drain, Draining, Ledger, Status
from common.service import Process
from gateway.errors import Refusal

BOUND = 5.0
"""Seconds for the router to answer."""
MAX_WAITING = 64

Answer = Status | Ledger | Draining
Kind = TypeVar("Kind", Status, Ledger, Draining)


class Questions:
    """Asks again and again until the router answers; each method raises Refusal if it does not."""

    def __init__(self, process: Process) -> None:
        self._process = process
        # Lives of a gateway and gateways side by side do not take each other's answers.
        self._numbers = count(secrets.randbits(62))
        self._waiting: dict[int, asyncio.Future[Answer]] = {}

    async def status(self) -> Status:
        """Members, load and policy."""
        return await self._put(Ask(next(self._numbers), self._inbox, "status"), Status)

    async def ledger(self) -> Ledger:
        """All that is held anywhere."""
        return await self._put(Ask(next(self._numbers), self._inbox, "ledger"), Ledger)

    async def drain(self, name: str) -> Draining:
        """Have a member hand over what it has and leave for good."""
        return await self._put(Drain(next(self._numbers), self._inbox, name), Draining)

    def receive(self, message: ControlMessage) -> bool:
        """Take an answer; False when nobody waits for it."""
        if not isinstance(message, Status | Ledger | Draining):
            return False
        waiting = self._waiting.get(message.query)
        if waiting is None or waiting.done():
            return False
        waiting.set_result(message)
        return True

    @property
    def _inbox(self) -> str:
        return self._process.peer.inbox

    async def _put(self, question: Ask | Drain, kind: type[Kind]) -> Kind:
        if len(self._waiting) >= MAX_WAITING:
            raise Refusal(503, "Too many open questions.", retry_after=1.0)
        waiting = asyncio.get_running_loop().create_future()
        self._waiting[question.query] = waiting
        try:
            async with asyncio.timeout(BOUND), asyncio.TaskGroup() as group:
                repeating = group.create_task(self._repeat(question))
                answer = await waiting
                repeating.cancel()
        except TimeoutError:
            raise Refusal(504, "The router does not answer.", code="timeout") from None
        finally:
            del self._waiting[question.query]
        if not isinstance(answer, kind):
            raise Refusal(502, "The router has answered another question.")
        return answer

    async def _repeat(self, question: Ask | Drain) -> None:
        mesh = self._process.config.mesh
        while True:
            self._process.mesh.send(mesh.router, question)
            await asyncio.sleep(mesh.resend)
