import asyncio
from contextlib import ExitStack

import pytest

from common.emulated_links import EmulatedLinks
from common.messages import KvAck, LinkMessage
from tests.simulation.virtual_loop import Life, current_life, run

LATENCY = 0.001


def ack(number: int) -> KvAck:
    return KvAck("r", 1, 0, 0, number, 1)


class Inbox:
    def __init__(self) -> None:
        self.got: list[tuple[float, int]] = []

    def receive(self, message: LinkMessage) -> None:
        assert isinstance(message, KvAck)
        self.got.append((round(asyncio.get_running_loop().time(), 6), message.layer))


def test_a_source_sends_one_message_after_the_other_at_its_bandwidth():
    async def main() -> list[tuple[float, int]]:
        links, inbox = EmulatedLinks(100.0, LATENCY), Inbox()
        with links.bound("to", inbox.receive):
            links.send("from", "to", ack(1), 200)
            links.send("from", "to", ack(2), 100)
            links.send("from", "to", ack(3))
            await asyncio.sleep(10.0)
            links.send("from", "to", ack(4), 100)
            await asyncio.sleep(10.0)
        return inbox.got

    assert run(main()) == [(2.001, 1), (3.001, 2), (3.001, 3), (11.001, 4)]


def test_sources_do_not_wait_for_each_other():
    async def main() -> list[tuple[float, int]]:
        links, inbox = EmulatedLinks(100.0, LATENCY), Inbox()
        with links.bound("to", inbox.receive):
            links.send("a", "to", ack(1), 100)
            links.send("b", "to", ack(2), 50)
            await asyncio.sleep(10.0)
        return inbox.got

    assert run(main()) == [(0.501, 2), (1.001, 1)]


def test_what_nobody_waits_for_is_lost_and_counted():
    async def main() -> tuple[int, list[tuple[float, int]]]:
        links, inbox = EmulatedLinks(100.0, LATENCY), Inbox()
        with links.bound("to", inbox.receive):
            links.send("from", "to", ack(1))
        await asyncio.sleep(1.0)
        with links.bound("to", inbox.receive):
            links.send("from", "nobody", ack(2))
            await asyncio.sleep(1.0)
        return links.num_lost, inbox.got

    assert run(main()) == (2, [])


def test_messages_get_lost_as_told():
    async def main() -> tuple[int, list[int]]:
        def fate(source: str, destination: str, message: LinkMessage) -> tuple[float, ...]:
            assert (source, destination) == ("from", "to")
            return () if message == ack(2) else (0.0,)

        links, inbox = EmulatedLinks(100.0, LATENCY, fate), Inbox()
        with links.bound("to", inbox.receive):
            for number in (1, 2, 3):
                links.send("from", "to", ack(number))
            await asyncio.sleep(1.0)
        return links.num_lost, [number for _, number in inbox.got]

    assert run(main()) == (1, [1, 3])


def test_a_message_may_come_twice_and_late_behind_one_that_was_sent_after_it():
    async def main() -> list[tuple[float, int]]:
        def fate(source: str, destination: str, message: LinkMessage) -> tuple[float, ...]:
            return (0.5, 2.0) if message == ack(1) else (0.0,)

        links, inbox = EmulatedLinks(100.0, LATENCY, fate), Inbox()
        with links.bound("to", inbox.receive):
            links.send("from", "to", ack(1))
            links.send("from", "to", ack(2))
            await asyncio.sleep(10.0)
        return inbox.got

    assert run(main()) == [(0.001, 2), (0.501, 1), (2.001, 1)]


def test_what_comes_is_the_work_of_whoever_waits_for_it():
    async def main() -> list[bool]:
        sender, receiver, seen = Life("sender"), Life("receiver"), list[Life | None]()
        links, loop = EmulatedLinks(100.0, LATENCY), asyncio.get_running_loop()
        with ExitStack() as stack:
            bound = links.bound("to", lambda message: seen.append(current_life()))
            receiver.context.run(stack.enter_context, bound)
            loop.call_soon(links.send, "from", "to", ack(1), context=sender.context)
            await asyncio.sleep(1.0)
        return [life is receiver for life in seen]

    assert run(main()) == [True]


def test_an_endpoint_has_one_owner_at_a_time():
    links, inbox = EmulatedLinks(1.0), Inbox()
    again = links.bound("to", inbox.receive)
    with links.bound("to", inbox.receive), pytest.raises(ValueError, match="bound already"), again:
        pass


def test_messages_of_a_source_keep_their_order_where_timers_change_places():
    async def main() -> list[int]:
        loop, timers = asyncio.get_running_loop(), []
        links, inbox = EmulatedLinks(100.0, LATENCY), Inbox()
        with links.bound("to", inbox.receive), pytest.MonkeyPatch.context() as patch:
            patch.setattr(loop, "call_at", lambda when, *call, **_: timers.append(call))
            for number in range(3):
                links.send("from", "to", ack(number), 1)
            for callback, *args in reversed(timers[:]):
                callback(*args)
            for callback, *args in timers[3:]:
                callback(*args)
            patch.undo()
            await asyncio.sleep(1.0)
        return [number for _, number in inbox.got]

    assert run(main()) == [0, 1, 2]
