import asyncio
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import msgpack
import pytest
import uvloop
import zmq

from common.clock import MonotonicClock
from common.config import MeshConfig
from common.errors import ConfigError, WireError
from common.mesh import Mesh
from common.messages import Cancel, Ending, Peer, Sampling, Submit
from common.metrics import Metrics
from common.wire import CONTROL
from common.zmq_transport import ZmqTransport

ANY = "tcp://127.0.0.1:*"
LIMIT = 1 << 20


def run(main: Coroutine[Any, Any, None]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(30.0):
            await main

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(bounded())


class Running:
    """A mesh over ZeroMQ for as long as the context lasts."""

    def __init__(self, bind: str = ANY, **sizes: int) -> None:
        self.metrics = Metrics()
        transport = ZmqTransport(bind, LIMIT)
        self.mesh = Mesh(transport, MeshConfig(**sizes), self.metrics, MonotonicClock())
        self._group = asyncio.TaskGroup()

    async def __aenter__(self) -> "Running":
        await self._group.__aenter__()
        self._task = self._group.create_task(self.mesh.run())
        return self

    async def __aexit__(self, *raised: Any) -> None:
        self._task.cancel()
        try:
            await self._group.__aexit__(*raised)
        finally:
            await self.mesh.close()

    async def take(self, count: int) -> list[int]:
        return [(await self.mesh.receive())[0].attempt for _ in range(count)]

    def dropped(self, reason: str) -> float:
        return self.metrics.dropped.labels(reason)._value.get()


@pytest.mark.parametrize("scheme", ["tcp", "ipc"])
def test_messages_arrive_in_order_with_their_frames(scheme: str, tmp_path: Path):
    async def main() -> None:
        bind = ANY if scheme == "tcp" else f"ipc://{tmp_path}/inbox"
        submit = Submit("r", 1, Peer("g", 1, "a"), 2, 0, Sampling(), Ending(8))
        ids = bytes(400_000)
        async with Running() as a, Running(bind) as b:
            assert b.mesh.inbox.startswith(f"{scheme}://")
            for number in range(1, 3001):
                a.mesh.send(b.mesh.inbox, Cancel("r", number))
            a.mesh.send(b.mesh.inbox, submit, ids)
            assert await b.take(3000) == list(range(1, 3001))
            assert await b.mesh.receive() == (submit, (ids,))

    run(main())


def test_hostile_frames_are_dropped_and_counted_and_the_loop_lives_on():
    async def main() -> None:
        async with Running() as b, Running() as a:
            with zmq.Context() as context, context.socket(zmq.PUSH) as stranger:
                stranger.set(zmq.LINGER, 1000)
                stranger.connect(b.mesh.inbox)
                for frames in (
                    [b"\xc1"],
                    [b""],
                    [b"\x90" * LIMIT],
                    [b""] * 5000,
                    [msgpack.packb({"type": "Cancel", "request": "r", "attempt": 0})],
                    CONTROL.encode(Cancel("r", 1)),
                ):
                    stranger.send_multipart(frames)
                assert await b.take(1) == [1]
            a.mesh.send(b.mesh.inbox, Cancel("r", 2))
            assert await b.take(1) == [2]
            assert b.dropped("header") == 4
            assert b.dropped("field") == 1

    run(main())


def test_a_frame_over_the_limit_costs_its_sender_the_connection_and_nobody_else():
    async def main() -> None:
        async with Running() as b, Running() as a:
            with zmq.Context() as context, context.socket(zmq.PUSH) as stranger:
                stranger.set(zmq.LINGER, 0)
                monitor = stranger.get_monitor_socket(zmq.EVENT_DISCONNECTED)
                stranger.connect(b.mesh.inbox)
                stranger.send(bytes(LIMIT + 1))
                assert await asyncio.to_thread(monitor.poll, 10_000)
                stranger.disable_monitor()
                monitor.close(0)
            a.mesh.send(b.mesh.inbox, Cancel("r", 1))
            assert await b.take(1) == [1]

    run(main())


def test_a_dead_peer_delays_nobody_and_takes_up_when_it_comes():
    async def main() -> None:
        with zmq.Context() as context, context.socket(zmq.PULL) as free:
            free.bind(ANY)
            nobody = free.get_string(zmq.LAST_ENDPOINT)
        async with Running(outbox=8) as a, Running() as b:
            for number in range(1, 21):
                a.mesh.send(nobody, Cancel("r", number))
            for number in range(1, 9):
                a.mesh.send(b.mesh.inbox, Cancel("r", number))
            assert await b.take(8) == list(range(1, 9))
            assert a.dropped("outbox") == 12
            async with Running(nobody) as late:
                assert await late.take(8) == list(range(1, 9))

    run(main())


def test_a_peer_that_starts_anew_at_its_endpoint_is_reached_again():
    async def main() -> None:
        async with Running() as a:
            async with Running() as first:
                endpoint = first.mesh.inbox
                a.mesh.send(endpoint, Cancel("r", 1))
                assert await first.take(1) == [1]
            async with Running(endpoint) as second, asyncio.TaskGroup() as group:

                async def repeat() -> None:
                    while True:
                        a.mesh.send(endpoint, Cancel("r", 2))
                        await asyncio.sleep(0.05)

                repeating = group.create_task(repeat())
                assert await second.take(1) == [2]
                repeating.cancel()

    run(main())


def test_forgetting_peers_leaves_the_next_sockets_awake():
    async def main() -> None:
        async with Running() as a, Running() as b:
            for number in range(1, 31):
                # The descriptor of the forgotten socket is the next one's.
                a.mesh.send("tcp://127.0.0.1:9", Cancel("r", 1))
                await asyncio.sleep(0)
                a.mesh.forget("tcp://127.0.0.1:9")
                a.mesh.forget(b.mesh.inbox)
                a.mesh.send(b.mesh.inbox, Cancel("r", number))
                assert await b.take(1) == [number]

    run(main())


@pytest.mark.parametrize(
    "endpoint",
    [
        "",
        "nonsense",
        "inproc://x",
        "tcp://",
        "tcp://*:5",
        "ipc://",
        "udp://h:1",
    ],
)
def test_what_is_no_endpoint_is_dropped_and_counted(endpoint: str):
    async def main() -> None:
        async with Running() as a:
            a.mesh.send(endpoint, Cancel("r", 1))
            assert a.dropped("endpoint") == 1
            assert a.mesh.num_peers == 0

    run(main())


def test_last_words_reach_a_connected_peer():
    async def main() -> None:
        async with Running() as b:
            async with Running() as a:
                a.mesh.send(b.mesh.inbox, Cancel("r", 1))
                assert await b.take(1) == [1]
                a.mesh.send(b.mesh.inbox, Cancel("r", 2))
            assert await b.take(1) == [2]

    run(main())


def test_an_endpoint_that_is_taken_or_elsewhere_stops_the_start():
    first = ZmqTransport(ANY, LIMIT)
    with pytest.raises(ConfigError, match=r"cannot bind tcp://127\.0\.0\.1:\d+: "):
        ZmqTransport(first.endpoint, LIMIT)
    first.close()
    with pytest.raises(ConfigError, match="cannot bind nonsense"):
        ZmqTransport("nonsense", LIMIT)


def test_names_are_bound_by_address_and_peers_are_told_the_name():
    named = ZmqTransport(ANY, LIMIT, address="tcp://worker:*")
    assert named.endpoint.startswith("tcp://worker:")
    port = named.endpoint.rpartition(":")[2]
    named.close()
    well_known = ZmqTransport(f"tcp://localhost:{port}", LIMIT, address=f"tcp://localhost:{port}")
    assert well_known.endpoint == f"tcp://localhost:{port}"
    with pytest.raises(WireError):
        well_known.connect("nonsense")
    well_known.close()


def test_transports_of_one_context_close_one_by_one() -> None:
    async def main() -> None:
        context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        try:
            one, other = (ZmqTransport(ANY, LIMIT, context=context) for _ in range(2))
            one.close()
            sender = other.connect(other.endpoint)
            await sender.writable()
            assert sender.send([b"still there"])
            assert await other.receive() == [b"still there"]
            sender.close()
            other.close()
            assert not context.closed
        finally:
            context.destroy()

    run(main())
