from pathlib import Path
from typing import get_args

import pytest
import yaml

from common.config import load
from common.messages import Role
from compose import preset
from compose.model_cache import SMOLLM2

ROLES = get_args(Role)
ROOT = Path(__file__).resolve().parents[2]
COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))
SERVICES = COMPOSE["services"]
SERVICE_KEYS = {
    "image", "build", "environment", "volumes", "init", "restart", "stop_grace_period",
    "command", "depends_on", "ports", "healthcheck",
}  # fmt: skip


def test_it_has_the_services_of_the_mesh_and_nothing_unknown() -> None:
    extensions = {key for key in COMPOSE if key.startswith("x-")}
    assert set(COMPOSE) - extensions == {"version", "services", "volumes"}
    assert set(SERVICES) == {*ROLES, "model"}
    for name, service in SERVICES.items():
        assert set(service) <= SERVICE_KEYS, name


@pytest.mark.parametrize("role", ROLES)
def test_every_service_runs_its_role_with_a_shipped_preset(role: str) -> None:
    command, asked, flag, name = SERVICES[role]["command"]
    assert (command, asked, flag) == ("service", role, "--config")
    assert preset.find(name).name == "docker.toml"


def test_members_know_the_router_by_address_so_that_they_can_be_scaled() -> None:
    for name, service in SERVICES.items():
        assert service["environment"]["TETRIS_ROUTER"] == "tcp://router:5550", name
        assert service["environment"]["TETRIS_BIND"] == "0.0.0.0"
        assert "container_name" not in service
    published = [name for name, service in SERVICES.items() if "ports" in service]
    assert published == ["gateway"]


def test_what_needs_the_model_waits_for_it() -> None:
    waiting = {
        name
        for name, service in SERVICES.items()
        if "model" in service.get("depends_on", {})
        and service["depends_on"]["model"] == {"condition": "service_completed_successfully"}
    }
    assert waiting == set(ROLES) - {"router"}
    for service in SERVICES.values():
        assert set(service.get("depends_on", {})) <= set(SERVICES)


def test_volumes_are_declared_and_ports_stay_on_loopback() -> None:
    for service in SERVICES.values():
        assert all(mount.split(":")[0] in COMPOSE["volumes"] for mount in service["volumes"])
    assert all(port.startswith("127.0.0.1:") for port in SERVICES["gateway"]["ports"])


def test_the_public_door_is_published_and_the_operators_door_stays_inside() -> None:
    gateway = load(preset.find("docker")).gateway
    assert (gateway.host, gateway.control_host) == ("0.0.0.0", "127.0.0.1")
    inside = [int(port.rpartition(":")[2]) for port in SERVICES["gateway"]["ports"]]
    assert inside == [gateway.port]


def test_members_have_their_time_to_drain_and_stay_away_when_drained_on_order() -> None:
    drain = load(preset.find("docker")).mesh.drain
    for name in ROLES:
        grace = SERVICES[name]["stop_grace_period"]
        assert grace.endswith("s")
        assert int(grace[:-1]) >= drain + 10, name
        assert SERVICES[name]["restart"] == "on-failure"


def test_the_image_builds_from_the_dockerfile_and_runs_without_privileges() -> None:
    build = SERVICES["router"]["build"]
    dockerfile = (ROOT / build["context"] / build["dockerfile"]).read_text(encoding="utf-8")
    steps = [line.split() for line in dockerfile.splitlines() if line[:1].isupper()]
    assert steps[0] == ["ARG", "BASE=python:3.11-slim"]
    assert ["USER", "tetris"] in steps
    assert ["ENTRYPOINT", '["tetris"]'] in steps


def test_the_image_and_the_launcher_mean_the_same_model() -> None:
    pins = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    assert f"{SMOLLM2.package}=={SMOLLM2.version}" in pins
