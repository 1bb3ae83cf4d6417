import asyncio
from collections.abc import Awaitable, Callable

import pytest

from common.messages import (
    Accepted,
    Ask,
    ClusterState,
    Draining,
    Explained,
    InForce,
    Ledger,
    Scheduled,
    Status,
    Update,
)
from common.schedule import Schedule, ScheduleChange
from gateway.errors import Refusal
from gateway.mesh.questions import MAX_WAITING, Questions
from gateway.mesh.schedule import KnownSchedule
from tests.gateway.desk import Desk


def ask(scenario: Callable[[Desk, Questions], Awaitable[None]]) -> None:
    async def run() -> None:
        desk = Desk()
        await scenario(desk, Questions(desk.process, KnownSchedule()))

    asyncio.run(run())


def test_each_answer_goes_to_its_question() -> None:
    async def scenario(desk: Desk, questions: Questions) -> None:
        async with asyncio.TaskGroup() as group:
            status = group.create_task(questions.status())
            ledger = group.create_task(questions.ledger())
            drain = group.create_task(questions.drain("decode-0"))
            await desk.said(3)
            first, second, third = (message.query for message in desk.take())
            for message in (
                Draining(third, "no"),
                Ledger(second, (), 0),
                Status(first, 5, 0, 0, "cdsp", ()),
            ):
                assert questions.receive(message)
                assert not questions.receive(message)
        assert (status.result().epoch, ledger.result().num_entries) == (5, 0)
        assert drain.result().refusal == "no"

    ask(scenario)


def test_a_plan_is_asked_for_by_its_request() -> None:
    async def scenario(desk: Desk, questions: Questions) -> None:
        async with asyncio.TaskGroup() as group:
            asking = group.create_task(questions.plan("r"))
            await desk.said(1)
            (question,) = desk.take()
            assert question == Ask(question.query, desk.process.peer.inbox, "plan", "r")
            assert questions.receive(Explained(question.query, b"{}"))
        assert asking.result().explanation == b"{}"

    ask(scenario)


def test_an_update_tells_every_time_what_is_known_by_then() -> None:
    async def run() -> None:
        desk, known, change = Desk(), KnownSchedule(), ScheduleChange(policy="loongserve")
        questions = Questions(desk.process, known)
        current = InForce(7, Schedule())
        async with asyncio.TaskGroup() as group:
            asking = group.create_task(questions.update(change))
            await desk.said(1)
            (first,) = desk.take()
            known.receive(ClusterState(1, 0, 0, 0, 0, newer=current))
            await desk.said(1)
            (second,) = desk.take()
            assert questions.receive(Scheduled(first.query, 5, current, 0.1))
        assert first == Update(first.query, desk.process.peer.inbox, change)
        assert second == Update(first.query, desk.process.peer.inbox, change, current)
        assert asking.result().current == current

    asyncio.run(run())


def test_answers_that_nobody_waits_for_are_left_to_others() -> None:
    async def scenario(desk: Desk, questions: Questions) -> None:
        assert not questions.receive(Draining(1))
        assert not questions.receive(Accepted("r", 1))

    ask(scenario)


def test_the_answer_to_another_question_is_an_error() -> None:
    async def scenario(desk: Desk, questions: Questions) -> None:
        async with asyncio.TaskGroup() as group:
            asking = group.create_task(failing(questions))
            await desk.said(1)
            (question,) = desk.take()
            assert isinstance(question, Ask)
            assert questions.receive(Draining(question.query))
        assert asking.result() == 502

    ask(scenario)


async def failing(questions: Questions) -> int:
    with pytest.raises(Refusal) as refused:
        await questions.status()
    return refused.value.status


def test_open_questions_are_bounded() -> None:
    async def scenario(desk: Desk, questions: Questions) -> None:
        async with asyncio.TaskGroup() as group:
            waiting = [group.create_task(questions.status()) for _ in range(MAX_WAITING)]
            await desk.said(MAX_WAITING)
            assert await failing(questions) == 503
            for task in waiting:
                task.cancel()
        assert questions._waiting == {}

    ask(scenario)
