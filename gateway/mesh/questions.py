"""Questions of operators to the router, and what waits for their answers."""

import asyncio
from itertools import count
from typing import TypeVar

from msgspec import structs

from common.messages import (
    Ask,
    ControlMessage,
    Drain,
    Draining,
    Explained,
    Ledger,
    Scheduled,
    Status,
    Update,
)
from common.schedule import ScheduleChange
from common.service import Process
from gateway.errors import Refusal
from gateway.mesh.schedule import KnownSchedule

BOUND = 5.0
"""Seconds for the router to answer."""
MAX_WAITING = 64

Question = Ask | Drain | Update
Answer = Status | Ledger | Draining | Scheduled | Explained
Kind = TypeVar("Kind", Status, Ledger, Draining, Scheduled, Explained)


class Questions:
    """Asks again and again until the router answers; each method raises Refusal if it does not."""

    def __init__(self, process: Process, known: KnownSchedule) -> None:
        self._process = process
        self._known = known
        # Lives of a gateway do not take each other's answers.
        self._numbers = count(process.peer.incarnation)
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

    async def plan(self, request: str) -> Explained:
        """Why a request has got its plan."""
        question = Ask(next(self._numbers), self._inbox, "plan", request)
        return await self._put(question, Explained)

    async def schedule(self) -> Scheduled:
        """What is in force."""
        return await self._put(Ask(next(self._numbers), self._inbox, "schedule"), Scheduled)

    async def update(self, change: ScheduleChange) -> Scheduled:
        """Have the schedule changed; what is in force then, or why nothing has changed."""
        return await self._put(Update(next(self._numbers), self._inbox, change), Scheduled)

    def receive(self, message: ControlMessage) -> bool:
        """Take an answer; False when nobody waits for it."""
        if not isinstance(message, Answer):
            return False
        waiting = self._waiting.get(message.query)
        if waiting is None or waiting.done():
            return False
        waiting.set_result(message)
        return True

    @property
    def _inbox(self) -> str:
        return self._process.peer.inbox

    async def _put(self, question: Question, kind: type[Kind]) -> Kind:
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

    async def _repeat(self, question: Question) -> None:
        mesh = self._process.config.mesh
        while True:
            if isinstance(question, Update):
                # The router may be another one by now, which changes what it is told here.
                question = structs.replace(question, known=self._known.newest)
            self._process.mesh.send(mesh.router, question)
            await asyncio.sleep(mesh.resend)
