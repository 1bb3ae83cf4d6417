"""The ports of a local mesh: those that were asked for, or free ones."""

import os
import socket
from collections.abc import Callable
from contextlib import closing

from msgspec import structs

from common.config import Config
from common.errors import ConfigError

LOOPBACK = "127.0.0.1"
CONTROL_VARIABLE = "TETRIS_CONTROL_PORT"


def settled(config: Config, is_asked: bool, say: Callable[[str], None]) -> Config:
    """The configuration with ports that can be listened on; 0 takes a free one.

    Args:
        config: of the mesh.
        is_asked: whether this very control port is wanted, not just the preset's.
        say: is told of a control port that differs from the configured one.

    Raises:
        ConfigError: a port that was asked for is taken.
    """
    gateway = config.gateway
    port = gateway.port or free_port()
    _check(gateway.host, port, "--port")
    control = gateway.control_port or free_port()
    if not is_asked and (control == port or _trouble(gateway.control_host, control)):
        taken, control = control, free_port()
        say(f"port {taken} is taken: the control port is {control}")
    _check(gateway.control_host, control, "--control-port")
    if control == port:
        raise ConfigError(f"--port and --control-port are both {port}")
    return structs.replace(
        config, gateway=structs.replace(gateway, port=port, control_port=control)
    )


def is_control_port_asked(option: int | None) -> bool:
    """Whether the user named the control port, on the command line or in the environment."""
    return option is not None or CONTROL_VARIABLE in os.environ


def free_port() -> int:
    """A port of the loopback that was free a moment ago."""
    with closing(socket.socket()) as probe:
        probe.bind((LOOPBACK, 0))
        return int(probe.getsockname()[1])


def reachable(host: str) -> str:
    """An address of this machine under which something that listens on `host` is reached."""
    return LOOPBACK if host in ("0.0.0.0", "") else host


def _check(host: str, port: int, option: str) -> None:
    if trouble := _trouble(host, port):
        raise ConfigError(f"cannot listen on {host}:{port} ({trouble}); choose another {option}")


def _trouble(host: str, port: int) -> str | None:
    with closing(socket.socket()) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            return error.strerror or str(error)
    return None
