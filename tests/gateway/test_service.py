import asyncio
import socket

import aiohttp
import pytest

from common.errors import ConfigError
from tests.gateway.bench import (
    COMPLETION,
    Bench,
    Client,
    accept,
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


def test_what_is_open_is_finished_when_the_gateway_is_told_to_stop(bench: Bench) -> None:
    async def scenario(client: Client) -> None:
        async with asyncio.TaskGroup() as group:
            waiting = group.create_task(client.post("/v1/completions", COMPLETION))
            await client.mesh.arrived.wait()
            client.process.stopping.set()
            with pytest.raises(aiohttp.ClientConnectorError):
                while True:
                    await client.get("/health")
            client.mesh.tokens(client.mesh.submits[0], "hello")
            status, answer, _ = await waiting
            assert (status, answer["choices"][0]["text"]) == (200, "hello")

    bench(accept, scenario)
