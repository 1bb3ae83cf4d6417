import asyncio
import json
import re
import socket

import pytest

from common.errors import ConfigError
from common.messages import LOST_MEMBER, Accepted, Refused, Submit
from tests.gateway.bench import (
    COMPLETION,
    Bench,
    Client,
    FakeMesh,
    accept,
    events,
)


def test_a_port_that_is_taken_stops_the_start(bench: Bench) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()

        async def scenario(client: Client) -> None:
            raise AssertionError("the gateway must not start")

        with pytest.raises(ExceptionGroup) as failed:
            bench(accept, scenario, port=taken.getsockname()[1])
        assert failed.group_contains(ConfigError)


def test_an_operators_port_that_is_taken_stops_the_start(bench: Bench) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()

        async def scenario(client: Client) -> None:
            raise AssertionError("the gateway must not start")

        with pytest.raises(ExceptionGroup) as failed:
            bench(accept, scenario, control_port=taken.getsockname()[1])
        wrong = failed.value.subgroup(ConfigError)
        assert "gateway.control_host, gateway.control_port" in str(leaf(wrong))


def leaf(error: BaseException | None) -> BaseException | None:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


class Kept:
    """A connection that was open before."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    @classmethod
    async def open(cls, client: Client) -> "Kept":
        kept = cls(*await asyncio.open_connection("127.0.0.1", client.port))
        status, _, _ = await kept.ask(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
        assert status == 200
        return kept

    async def ask(self, request: bytes) -> tuple[int, bytes, bytes]:
        self._writer.write(request)
        head = await self._reader.readuntil(b"\r\n\r\n")
        length = re.search(rb"Content-Length: (\d+)", head)
        body = await self._reader.readexactly(int(length[1]) if length else 0)
        return int(head.split(b" ")[1]), head, body

    async def closed(self) -> bool:
        ended = await self._reader.read(1) == b""
        self._writer.close()
        return ended


def test_a_gateway_that_leaves_finishes_what_is_open_and_takes_nothing_new(bench: Bench) -> None:
    async def scenario(client: Client) -> None:
        kept = [await Kept.open(client) for _ in range(3)]
        async with asyncio.TaskGroup() as group:
            body = COMPLETION | {"stream": True}
            waiting = group.create_task(client.post("/v1/completions", body))
            await client.mesh.arrived.wait()
            client.process.stopping.set()
            with pytest.raises(ConnectionError):
                while True:
                    _, writer = await asyncio.open_connection("127.0.0.1", client.port)
                    writer.close()
            raw = json.dumps(COMPLETION).encode()
            post = "POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            requests = [
                f"{post}Content-Length: {len(raw)}\r\n\r\n".encode() + raw,
                b"GET /ready HTTP/1.1\r\nHost: x\r\n\r\n",
                b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n",
            ]
            statuses = []
            for connection, request in zip(kept, requests, strict=True):
                status, head, _ = await connection.ask(request)
                statuses.append(status)
                assert b"Connection: close" in head
                assert await connection.closed()
            assert statuses == [503, 503, 200]
            assert not client.process.drained.is_set()
            assert len(client.mesh.submits) == 1
            client.mesh.tokens(client.mesh.submits[0], "hello")
            status, answer, _ = await waiting
            assert (status, events(answer)[-1]["choices"][0]["finish_reason"]) == (200, "stop")
        await client.process.drained.wait()
        assert client.mesh.facts.idle

    bench(accept, scenario)


def test_what_is_still_open_at_the_very_end_is_told_so(bench: Bench) -> None:
    async def scenario(client: Client) -> None:
        async with asyncio.TaskGroup() as group:
            body = COMPLETION | {"stream": True}
            streaming = group.create_task(client.post("/v1/completions", body))
            waiting = group.create_task(client.post("/v1/completions", COMPLETION))
            await client.mesh.until(lambda: len(client.mesh.facts.open) == 2)
            client.process.stopping.set()
            client.process.drained.set()
            assert (await waiting)[0] == 503
            _, raw, _ = await streaming
            assert events(raw)[-1]["error"]["message"] == "The server is stopping."
            cancelled = {(await client.mesh.seen.get()).request for _ in range(2)}
            assert cancelled == {submit.request for submit in client.mesh.submits}

    bench(accept, scenario)


def test_a_gateway_that_was_declared_lost_joins_again_and_goes_on(bench: Bench) -> None:
    async def scenario(client: Client) -> None:
        status, answer, _ = await client.post("/v1/completions", COMPLETION)
        assert (status, answer["choices"][0]["text"]) == (200, "hello")
        first, *_, last = client.mesh.submits
        assert (first.reply.incarnation, first.attempt) == (7, 1)
        assert (last.reply.incarnation, last.attempt) == (8, 2)

    def reply(mesh: FakeMesh, submit: Submit, ids: list[int]) -> None:
        mesh.send(Accepted(submit.request, submit.attempt))
        if submit.attempt == 2:
            mesh.tokens(submit, "hello")
        else:
            mesh.send(Refused(7, LOST_MEMBER))

    bench(reply, scenario)
