import socket

import pytest

from common.errors import ConfigError
from tests.gateway.bench import (
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
