import asyncio
import random
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress

import msgpack
import pytest

from common.clock import LoopClock
from common.config import MeshConfig
from common.errors import WireError
from common.memory_transport import Faults, MemoryNetwork
from common.mesh import IDLE, MAX_AGE, MAX_PEERS, Mesh
from common.messages import Cancel, Ending, Peer, Sampling, Submit
from common.metrics import Metrics
from common.wire import CONTROL
from tests.simulation.virtual_loop import run


@asynccontextmanager
async def running(mesh: Mesh) -> AsyncIterator[Mesh]:
    async with asyncio.TaskGroup() as group:
        task = group.create_task(mesh.run())
        yield mesh
        task.cancel()
    await mesh.close()


class World:
    """A network without faults, its meshes and their figures."""

    def __init__(self, seed: int = 0, faults: Faults | None = None) -> None:
        self.network = MemoryNetwork(random.Random(seed), faults)
        self.metrics: dict[str, Metrics] = {}

    def mesh(self, endpoint: str, **sizes: int) -> Mesh:
        self.metrics[endpoint] = Metrics()
        transport = self.network.bind(endpoint)
        return Mesh(transport, MeshConfig(**sizes), self.metrics[endpoint], LoopClock())

    def dropped(self, endpoint: str, reason: str) -> float:
        return self.metrics[endpoint].dropped.labels(reason)._value.get()


async def take(mesh: Mesh, count: int) -> list[int]:
    return [(await mesh.receive())[0].attempt for _ in range(count)]


def test_messages_arrive_in_order_with_their_frames():
    async def main() -> None:
        world = World()
        submit = Submit("r", 1, Peer("g", 1, "a"), 2, 0, Sampling(), Ending(8))
        async with running(world.mesh("a")) as a, running(world.mesh("b")) as b:
            for number in range(1, 100):
                a.send(b.inbox, Cancel("r", number))
            a.send(b.inbox, submit, b"\1\0\0\0\2\0\0\0")
            assert await take(b, 99) == list(range(1, 100))
            assert await b.receive() == (submit, (b"\1\0\0\0\2\0\0\0",))
        assert b'tetris_messages_sent_total{type="Cancel"} 99.0' in world.metrics["a"].render()
        assert b'tetris_messages_received_total{type="Submit"} 1.0' in world.metrics["b"].render()

    run(main())


def test_what_was_sent_before_the_mesh_runs_goes_out_when_it_does():
    async def main() -> None:
        world = World()
        early = world.mesh("a")
        early.send("b", Cancel("r", 1))
        async with running(early), running(world.mesh("b")) as b:
            assert await take(b, 1) == [1]

    run(main())


def test_malformed_messages_are_counted_by_reason_and_the_next_one_is_read():
    async def main() -> None:
        world = World()
        stranger = world.network.bind("stranger").connect("b")
        async with running(world.mesh("b")) as b:
            for frames in ([b"\xc1"], [], [msgpack.packb({"type": "Nobody"})], [b"\x80", b"", b""]):
                stranger.send(frames)
            stranger.send(CONTROL.encode(Cancel("r", 7)))
            assert await take(b, 1) == [7]
        assert [world.dropped("b", reason) for reason in ("header", "frames", "type")] == [1, 1, 2]

    run(main())


def test_a_dead_peer_delays_nobody_and_its_overflow_is_counted():
    async def main() -> None:
        world = World()
        async with running(world.mesh("a", outbox=8)) as a, running(world.mesh("b")) as b:
            for number in range(1, 21):
                a.send("nobody", Cancel("r", number))
                if number <= 8:
                    a.send(b.inbox, Cancel("r", number))
            assert await take(b, 8) == list(range(1, 9))
            assert world.dropped("a", "outbox") == 12

    run(main())


def test_a_message_that_waited_too_long_is_dropped_and_the_fresh_ones_go_out():
    async def main() -> None:
        world = World()
        async with running(world.mesh("a")) as a:
            a.send("late", Cancel("r", 1))
            a.send("late", Cancel("r", 2))
            await asyncio.sleep(MAX_AGE + 1)
            a.send("late", Cancel("r", 3))
            async with running(world.mesh("late")) as late:
                assert await take(late, 1) == [3]
        assert world.dropped("a", "stale") == 2

    run(main())


def test_a_full_inbox_holds_the_reader_back_and_loses_nothing():
    async def main() -> None:
        world = World()
        async with running(world.mesh("a")) as a, running(world.mesh("b", inbox=4)) as b:
            for number in range(1, 51):
                a.send(b.inbox, Cancel("r", number))
            await asyncio.sleep(10.0)
            assert await take(b, 50) == list(range(1, 51))

    run(main())


def test_an_idle_peer_is_forgotten_and_found_again():
    async def main() -> None:
        world = World()
        async with running(world.mesh("a")) as a, running(world.mesh("b")) as b:
            a.send("nobody", Cancel("r", 1))
            a.send("nobody", Cancel("r", 2))
            a.send(b.inbox, Cancel("r", 3))
            await asyncio.sleep(IDLE * 2)
            assert a.num_peers == 0
            a.send(b.inbox, Cancel("r", 4))
            assert await take(b, 2) == [3, 4]
        # The first was in the writer's hands.
        assert world.dropped("a", "forgotten") == 1

    run(main())


def test_peers_are_bounded():
    async def main() -> None:
        world = World()
        async with running(world.mesh("a")) as a:
            for number in range(MAX_PEERS + 3):
                a.send(f"peer-{number}", Cancel("r", 1))
            assert a.num_peers == MAX_PEERS
        assert world.dropped("a", "peers") == 3

    run(main())


def test_cancelled_receives_lose_nothing():
    async def main() -> None:
        world = World(faults=Faults(0.001, 0.002))
        got = []
        async with running(world.mesh("a")) as a, running(world.mesh("b")) as b:
            for number in range(1, 501):
                a.send(b.inbox, Cancel("r", number))
                with suppress(TimeoutError):
                    async with asyncio.timeout(0.0015):
                        got += await take(b, 1)
            got += await take(b, 500 - len(got))
        assert got == list(range(1, 501))

    run(main())


def test_last_words_go_out_when_the_mesh_closes():
    async def main() -> None:
        world = World()
        async with running(world.mesh("b")) as b:
            a = world.mesh("a")
            a.send("nobody", Cancel("r", 1))
            a.send(b.inbox, Cancel("r", 2))
            await a.close()
            assert await take(b, 1) == [2]

    run(main())


def test_a_message_that_no_peer_would_take_is_the_callers_bug():
    async def main(frames: Sequence[bytes]) -> None:
        mesh = World().mesh("a")
        with pytest.raises(WireError):
            mesh.send("b", Cancel("r", 1), *frames)
        await mesh.close()

    run(main([b"one too many"]))


def test_same_seed_gives_the_same_traffic():
    async def traffic(seed: int) -> str:
        world = World(seed, Faults(loss=0.1, duplication=0.1))

        async def echo(mesh: Mesh, peer: str) -> None:
            while True:
                message, _ = await mesh.receive()
                mesh.send(peer, message)

        async with (
            running(world.mesh("a")) as a,
            running(world.mesh("b")) as b,
            asyncio.TaskGroup() as group,
        ):
            tasks = [group.create_task(echo(a, "b")), group.create_task(echo(b, "a"))]
            for number in range(1, 101):
                a.send("b", Cancel("r", number))
            await asyncio.sleep(5.0)
            for task in tasks:
                task.cancel()
        return world.network.trace

    first, again, other = (run(traffic(seed)) for seed in (3, 3, 4))
    assert first == again
    assert first != other
