"""The configuration: one TOML preset into one frozen tree.

Unknown key, missing key or wrong type stop the start with file and key. Environment variables
override only addresses, names and secrets. Nothing writes to the tree after loading.
"""

from typing import Annotated, Literal

from msgspec import Meta, Struct

Positive = Annotated[float, Meta(gt=0, le=1e6)]
PositiveInt = Annotated[int, Meta(gt=0, le=2**31 - 1)]
Port = Annotated[int, Meta(ge=0, le=65535)]


class Section(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One table of a preset."""


class ModelConfig(Section, frozen=True):
    """Which model is served."""

    path: str
    """A Hugging Face directory with safetensors; the launcher fills it in."""
    name: str
    """Name in the API."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    max_model_len: PositiveInt | None = None
    """Tokens; the model's own limit when absent."""


class MeshConfig(Section, frozen=True):
    """Control sockets of this process."""

    router: str = "tcp://127.0.0.1:5550"
    """The one well-known address."""
    bind: str = "127.0.0.1"
    """Address that inboxes and links bind; any port."""
    advertise: str | None = None
    """Host name under which peers reach this process, when it differs from `bind`."""
    name: str | None = None
    node: str | None = None
    heartbeat: Positive = 0.5
    resend: Positive = 0.5
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


class RouterConfig(Section, frozen=True):
    """Planning."""

    sp_size_candidates: Annotated[tuple[PositiveInt, ...], Meta(min_length=1)] = (1, 2, 4, 8, 16)
    improvement_rate: Annotated[float, Meta(ge=0, lt=1)] = 0.1
    latency: str = "cpu-smollm2-135m"
    """A fitted latency model: a name in compose/latency or a path."""
    min_chunk: PositiveInt = 128
    """Tokens; shorter first chunks do not pay off."""
    max_queue: PositiveInt = 1024
    reserve_tokens: PositiveInt = 256
    """Decode slots reserved beyond the prompt at planning, at most."""


class PrefillConfig(Section, frozen=True):
    """A prefill instance."""

    kv_tokens: PositiveInt = 32768
    step_timeout: Positive = 60.0
    start_timeout: Positive = 600.0
    window: PositiveInt = 4
    """Layers in flight per backend."""


class DecodeConfig(Section, frozen=True):
    """A decode instance."""

    kv_tokens: PositiveInt = 65536
    max_batch: PositiveInt = 64
    backends: PositiveInt = 8
    grow_tokens: PositiveInt = 256


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
    prefill: PrefillConfig = PrefillConfig()
    decode: DecodeConfig = DecodeConfig()
    log: LogConfig = LogConfig()
