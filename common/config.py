"""The configuration: one TOML preset into one frozen tree.

Unknown key, missing key or wrong type stop the start with file and key. Nothing writes to the
tree after loading. Environment variables override only addresses and names:

TETRIS_ROUTER      mesh.router       the router's endpoint
TETRIS_BIND        mesh.bind         address that inboxes and links bind
TETRIS_ADVERTISE   mesh.advertise    host under which peers reach this process
TETRIS_NAME        mesh.name         name of this process
TETRIS_NODE        mesh.node         name of the machine
TETRIS_PORT        gateway.port      port of the HTTP door
TETRIS_CONTROL_PORT gateway.control_port  port of the operators' door
TETRIS_MODEL_PATH  model.path        directory of the model
"""

import os
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

from common.errors import ConfigError
from common.messages import Endpoint, KvLayout, Name, Number
from common.schedule import OtherPolicy, Rate, Schedule, Size, place_of

VARIABLES = {
    "TETRIS_ROUTER": "mesh.router",
    "TETRIS_BIND": "mesh.bind",
    "TETRIS_ADVERTISE": "mesh.advertise",
    "TETRIS_NAME": "mesh.name",
    "TETRIS_NODE": "mesh.node",
    "TETRIS_PORT": "gateway.port",
    "TETRIS_CONTROL_PORT": "gateway.control_port",
    "TETRIS_MODEL_PATH": "model.path",
}

Positive = Annotated[float, Meta(gt=0, le=1e6)]
PositiveInt = Annotated[int, Meta(gt=0, le=2**31 - 1)]
Port = Annotated[int, Meta(ge=0, le=65535)]
Cost = Annotated[float, Meta(ge=0, le=60)]
"""Seconds of one step; more would look like a dead worker."""
Bandwidth = Annotated[float, Meta(ge=1, le=1e15)]

EMULATED = "emulated"
"""The path of a model that is not there."""


class Section(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One table of a preset."""


class ModelConfig(Section, frozen=True):
    """Which model is served."""

    path: str
    """A Hugging Face directory with safetensors, filled in by the launcher, or `emulated`."""
    name: str
    """Name in the API."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    max_model_len: PositiveInt | None = None
    """Tokens; the model's own limit when absent."""

    @property
    def is_emulated(self) -> bool:
        """Whether there is no model, only what it would cost."""
        return self.path == EMULATED


class MeshConfig(Section, frozen=True):
    """Control sockets of this process."""

    router: Endpoint = "tcp://127.0.0.1:5550"
    """The one well-known address."""
    bind: str = "127.0.0.1"
    """Address that inboxes and links bind; any port."""
    advertise: str | None = None
    """Host name under which peers reach this process, when it differs from `bind`."""
    name: Name | None = None
    node: Name | None = None
    heartbeat: Positive = 0.5
    resend: Positive = 0.5
    dead_after: Positive = 1.5
    """Seconds of silence after which a member counts as lost."""
    lease: Positive = 60.0
    """Seconds for which a member keeps what it holds without hearing of a router."""
    drain: Positive = 30.0
    """Seconds that a member may take to hand over what it has when it is told to stop."""
    outbox: PositiveInt = 4096
    inbox: PositiveInt = 16384


class GatewayConfig(Section, frozen=True):
    """The HTTP door."""

    host: str = "127.0.0.1"
    port: Port = 8000
    max_requests: PositiveInt = 512
    max_body_bytes: PositiveInt = 8 * 1024 * 1024
    allow_forced_plans: bool = False
    request_timeout: Positive = 3600.0
    """Seconds that a request may take, at most; its `timeout` can only be shorter."""
    stall_timeout: Positive = 30.0
    """Seconds without a token after which a stream goes on in a new attempt."""
    max_attempts: PositiveInt = 8
    """Attempts in a row that bring no token before the failure is told to the client."""
    health_timeout: Positive = 30.0
    """Seconds without a token or without the mesh, while requests are open, that /health bears."""
    keys: str | None = None
    """File with the keys of clients; without it everybody may ask."""
    header_timeout: Positive = 10.0
    """Seconds from a connection, or a later request's first byte, to the end of the head."""
    max_connections: PositiveInt = 1024
    max_connections_per_host: PositiveInt = 512
    """Of one client's address; as many as all of them behind a proxy, which is one client."""
    control_host: str = "127.0.0.1"
    control_port: Port = 8001
    """Where operators reach /tetris/* and /update."""
    control_keys: str | None = None
    """File with the keys of operators; needed where other machines reach `control_host`."""
    metrics_compat: Literal["vllm", "none"] = "vllm"
    """Whose names `/metrics` tells beside our own."""
    otlp: str = ""
    """URL of an OpenTelemetry collector that gets every request's spans; none when empty."""


class RouterConfig(Section, frozen=True):
    """The router's queue and books; how it plans is `schedule`."""

    latency: str = "cpu-smollm2-135m"
    """A fitted latency model: a name in compose/latency or a path."""
    max_queue: PositiveInt = 1024
    max_ttft: Annotated[float, Meta(ge=0, le=1e6)] = 300.0
    """Seconds: new requests that would wait so long for their first token are refused, see
    `services/router/entrance`. As long as HTTP clients wait that set no time of their own; 0 takes
    in whatever the queue has room for."""
    reserve_tokens: PositiveInt = 256
    """Decode slots reserved beyond the prompt at planning, at most."""
    calibrate_seconds: Annotated[float, Meta(ge=0, le=600)] = 20.0
    """Seconds that idle instances spend, at most, on finding out how fast they are when nothing
    is known of such machines; 0 neither does that nor keeps what is learnt."""
    shadow: OtherPolicy = ""
    """Another policy to plan all requests, too: the TTFT is told and the plans are not run."""
    learn: bool = True
    """Whether the latency model follows what chunks take in fact, and slow instances are left."""
    no_decode_timeout: Positive = 120.0
    """Seconds that requests wait for the first decode or prefill instance or broker to come."""


class PrefillConfig(Section, frozen=True):
    """A prefill instance."""

    kv_tokens: PositiveInt = 32768
    step_timeout: Positive = 15.0
    """Seconds for one step of a ring, at least; five times the chunk's predicted ones if more."""
    start_timeout: Positive = 600.0
    transfer_timeout: Positive = 10.0
    """Seconds without acknowledgement from decode after which a hand-over is given up."""
    window: PositiveInt = 4
    """Layers in flight per backend."""


class DecodeConfig(Section, frozen=True):
    """A decode instance."""

    kv_tokens: PositiveInt = 65536
    max_batch: PositiveInt = 64
    backends: Size = 8
    grow_tokens: PositiveInt = 256


class StepCost(Section, frozen=True):
    """Seconds of a decode step: fixed, per request, and per token of context."""

    base: Cost = 0.008
    request: Cost = 1e-4
    token: Cost = 6.5e-8


class EmulatedConfig(Section, frozen=True):
    """The cluster that is planned for, or emulated where the model's path is `emulated`."""

    nodes: Size = 2
    """Machines with prefill instances."""
    instances_per_node: Size = 8
    """Prefill instances on each of them."""
    prefill: Size | None = None
    """Prefill instances altogether, where the machines do not have equally many."""
    decode: Size = 2
    """Decode instances."""
    layout: KvLayout = KvLayout(num_layers=32, num_kv_heads=8, head_dim=128, dtype="bfloat16")
    """Of the KV that is not there: it sets how long a transfer takes."""
    step: StepCost = StepCost()
    bandwidth: Bandwidth = 25e9
    """Bytes per second at which an instance hands KV over."""
    error: Rate = 0.0
    """Seconds of chunks and steps are off by up to this share, either way."""
    seed: Number = 0
    """Of the error."""

    @property
    def num_prefill(self) -> int:
        """Prefill instances altogether."""
        return self.prefill or self.nodes * self.instances_per_node


class LogConfig(Section, frozen=True):
    """The log."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["json", "text"] = "json"


class Config(Section, frozen=True):
    """Everything that a process of the mesh needs to know at its start."""

    model: ModelConfig
    mesh: MeshConfig = MeshConfig()
    gateway: GatewayConfig = GatewayConfig()
    router: RouterConfig = RouterConfig()
    schedule: Schedule = Schedule()
    prefill: PrefillConfig = PrefillConfig()
    decode: DecodeConfig = DecodeConfig()
    emulated: EmulatedConfig = EmulatedConfig()
    log: LogConfig = LogConfig()


def load(path: str | Path, overrides: Mapping[str, object] | None = None) -> Config:
    """The tree of a preset; the environment overrides the file, `overrides` both.

    Args:
        path: of a TOML file.
        overrides: values by dotted key, such as `{"model.path": "/models/x"}`.

    Raises:
        ConfigError: naming the file, variable or override, and the key.
    """
    tree = _read(Path(path))
    sources: dict[str, str] = {}
    for variable, key in VARIABLES.items():
        if variable in os.environ:
            value = os.environ[variable]
            _put(tree, key, _number(value) if key.endswith("port") else value)
            sources[key] = f"environment variable {variable}"
    for key, given in (overrides or {}).items():
        _put(tree, key, given)
        sources[key] = "override"
    try:
        return msgspec.convert(tree, Config, strict=True)
    except msgspec.ValidationError as error:
        key, what = place_of(error)
        key = key or "the whole file"
        raise ConfigError(f"{sources.get(key, path)}: {key}: {what}") from None


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from None
    except ValueError as error:
        raise ConfigError(f"{path}: not TOML: {error}") from None


def _put(tree: dict[str, Any], key: str, value: object) -> None:
    *sections, last = key.split(".")
    for section in sections:
        tree = tree.setdefault(section, {})
        if not isinstance(tree, dict):
            # The file has a value where a table belongs; the check of the tree names it.
            return
    tree[last] = value


def _number(text: str) -> int | str:
    return int(text) if re.fullmatch(r"\d{1,9}", text) else text
