import socket
from collections.abc import Iterator

import pytest
from msgspec import structs

from common.config import Config, GatewayConfig, ModelConfig
from common.errors import ConfigError
from compose.ports import CONTROL_VARIABLE, free_port, is_control_port_asked, reachable, settled

said: list[str] = []


@pytest.fixture(autouse=True)
def _silence(monkeypatch: pytest.MonkeyPatch) -> None:
    said.clear()
    monkeypatch.delenv(CONTROL_VARIABLE, raising=False)


@pytest.fixture
def taken() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def config(port: int, control: int) -> Config:
    gateway = GatewayConfig(port=port, control_port=control)
    return Config(model=ModelConfig(path="p", name="n"), gateway=gateway)


def ports(port: int, control: int, is_asked: bool = False) -> tuple[int, int]:
    gateway = settled(config(port, control), is_asked, said.append).gateway
    return gateway.port, gateway.control_port


def test_free_ports_stay_as_they_are():
    port, control = free_port(), free_port()
    assert ports(port, control) == (port, control)
    assert said == []


def test_zero_takes_free_ones():
    port, control = ports(0, 0)
    assert port > 0
    assert control > 0
    assert port != control
    assert said == []


def test_a_taken_control_port_gives_way_and_the_new_one_is_said(taken: int):
    _, control = ports(0, taken)
    assert control != taken
    assert said == [f"port {taken} is taken: the control port is {control}"]
    same, control = ports(port := free_port(), port)
    assert same == port != control


def test_a_port_that_was_asked_for_is_not_replaced(taken: int):
    with pytest.raises(ConfigError, match=rf"127\.0\.0\.1:{taken} .*another --port"):
        ports(taken, 0)
    with pytest.raises(ConfigError, match=rf"127\.0\.0\.1:{taken} .*another --control-port"):
        ports(0, taken, is_asked=True)
    port = free_port()
    with pytest.raises(ConfigError, match=f"both {port}"):
        ports(port, port, is_asked=True)


def test_the_rest_of_the_configuration_stays_as_it_is():
    before = config(0, 0)
    after = settled(before, False, said.append)
    assert structs.replace(after, gateway=before.gateway) == before


def test_the_environment_asks_as_the_command_line_does(monkeypatch: pytest.MonkeyPatch):
    assert not is_control_port_asked(None)
    assert is_control_port_asked(0)
    monkeypatch.setenv(CONTROL_VARIABLE, "8001")
    assert is_control_port_asked(None)


def test_what_listens_everywhere_is_reached_on_the_loopback():
    assert [reachable(host) for host in ("0.0.0.0", "", "10.0.0.1")] == [
        "127.0.0.1",
        "127.0.0.1",
        "10.0.0.1",
    ]
