"""Where the links of a process listen, and under which address others reach them."""

import socket

from common.config import MeshConfig


def bind_address(mesh: MeshConfig) -> str:
    """What a link binds: any free port."""
    return f"tcp://{mesh.bind}:*"


def public_address(endpoint: str, mesh: MeshConfig) -> str:
    """The address to tell others for a bound endpoint."""
    host = mesh.advertise or (socket.gethostname() if mesh.bind == "0.0.0.0" else mesh.bind)
    return f"tcp://{host}:{endpoint.rpartition(':')[2]}"
