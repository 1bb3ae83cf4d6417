import asyncio
import random

import pytest

from common.memory_transport import Faults, MemoryNetwork
from tests.simulation.virtual_loop import Life, run


async def _exchange(seed: int, faults: Faults, count: int = 200) -> tuple[list[int], str, int]:
    network = MemoryNetwork(random.Random(seed), faults)
    sender, receiver = network.bind("a").connect("b"), network.bind("b")
    for number in range(count):
        assert sender.send([number.to_bytes(2)])
        await asyncio.sleep(0.0001)
    got = []
    try:
        async with asyncio.timeout(10.0):
            while True:
                (frame,) = await receiver.receive()
                got.append(int.from_bytes(frame))
    except TimeoutError:
        return got, network.trace, network.num_lost


def test_without_faults_everything_arrives_once_and_in_order():
    got, _, lost = run(_exchange(1, Faults()))
    assert got == list(range(200))
    assert lost == 0


def test_loss_and_duplication_happen_as_often_as_told():
    got, _, lost = run(_exchange(2, Faults(loss=0.25, duplication=0.25), count=2000))
    assert got == sorted(got)
    assert len(set(got)) == 2000 - lost
    assert 400 < lost < 600
    assert 250 < len(got) - len(set(got)) < 500


def test_what_may_not_be_lost_always_arrives():
    faults = Faults(loss=1.0, may_lose=lambda frames: int.from_bytes(frames[0]) % 2 == 1)
    got, _, lost = run(_exchange(2, faults))
    assert got == list(range(0, 200, 2))
    assert lost == 100


def test_same_seed_same_trace_and_another_seed_another_trace():
    faults = Faults(loss=0.1, duplication=0.1)
    first, again, other = (run(_exchange(seed, faults)) for seed in (5, 5, 6))
    assert first == again
    assert first[1] != other[1]


def test_a_cut_loses_one_direction_until_it_heals_and_what_is_under_way_too():
    async def main() -> tuple[list[bytes], list[bytes], int]:
        cuts = {("a", "b")}
        network = MemoryNetwork(random.Random(0), reaches=lambda *way: way not in cuts)
        a, b = network.bind("a"), network.bind("b")
        a.connect("b").send([b"lost"])
        b.connect("a").send([b"back"])
        cuts.clear()
        a.connect("b").send([b"lost on its way"])
        cuts.add(("a", "b"))
        back = list(await a.receive())
        await asyncio.sleep(1.0)
        cuts.clear()
        a.connect("b").send([b"healed"])
        return list(await b.receive()), back, network.num_lost

    assert run(main()) == ([b"healed"], [b"back"], 2)


def test_messages_of_one_sender_pass_each_other_only_when_told():
    got, _, lost = run(_exchange(3, Faults(max_delay=0.01, reordering=0.5)))
    assert sorted(got) == list(range(200))
    assert got != sorted(got)
    assert lost == 0


def test_nobody_there_takes_nothing_until_somebody_binds():
    async def main() -> bytes:
        network = MemoryNetwork(random.Random(0))
        sender = network.bind("a").connect("b")
        assert not sender.send([b"early"])
        async with asyncio.TaskGroup() as group:
            waiting = group.create_task(sender.writable())
            await asyncio.sleep(1.0)
            assert not waiting.done()
            b = network.bind("b")
        sender.send([b"late"])
        return bytes((await b.receive())[0])

    assert run(main()) == b"late"


def test_a_closed_inbox_loses_what_is_under_way_and_may_be_bound_again():
    async def main() -> tuple[int, list[bytes]]:
        network = MemoryNetwork(random.Random(0))
        sender, first = network.bind("a").connect("b"), network.bind("b")
        with pytest.raises(ValueError, match="bound already"):
            network.bind("b")
        sender.send([b"to the first"])
        first.close()
        await asyncio.sleep(1.0)
        second = network.bind("b")
        sender.send([b"to the second"])
        return network.num_lost, list(await second.receive())

    assert run(main()) == (1, [b"to the second"])


def test_an_inbox_that_nobody_reads_stays_bounded():
    async def main() -> int:
        network = MemoryNetwork(random.Random(0), capacity=20)
        sender = network.bind("a").connect("b")
        network.bind("b")
        for _ in range(30):
            sender.send([b""])
        await asyncio.sleep(1.0)
        return network.num_lost

    assert run(main()) == 10


def test_what_a_frozen_process_has_sent_still_arrives():
    async def main() -> bytes:
        life, network = Life("zombie"), MemoryNetwork(random.Random(0))
        sender, b = network.bind("a").connect("b"), network.bind("b")
        life.context.run(sender.send, [b"sent"])
        life.freeze()
        async with asyncio.timeout(1.0):
            return bytes((await b.receive())[0])

    assert run(main()) == b"sent"


def test_what_has_been_closed_sends_nothing_more():
    async def main() -> list[bytes]:
        network = MemoryNetwork(random.Random(0))
        a, b, c = network.bind("a"), network.bind("b"), network.bind("c")
        sender = a.connect("b")
        a.close()
        assert sender.send([b"after the end"])
        await asyncio.sleep(1.0)
        c.connect("b").send([b"alive"])
        return list(await b.receive())

    assert run(main()) == [b"alive"]
