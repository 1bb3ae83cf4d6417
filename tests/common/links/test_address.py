import socket

import pytest

from common.config import MeshConfig
from common.links.address import bind_address, public_address


@pytest.mark.parametrize(
    ("mesh", "host"),
    [
        (MeshConfig(bind="127.0.0.1"), "127.0.0.1"),
        (MeshConfig(bind="0.0.0.0"), socket.gethostname()),
        (MeshConfig(bind="0.0.0.0", advertise="worker-3"), "worker-3"),
    ],
)
def test_others_are_told_a_host_that_they_can_reach(mesh: MeshConfig, host: str) -> None:
    assert bind_address(mesh) == f"tcp://{mesh.bind}:*"
    assert public_address(f"tcp://{mesh.bind}:4711", mesh) == f"tcp://{host}:4711"
