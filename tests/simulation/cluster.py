"""What is emulated: how many of what, how large, how patient; and its configuration."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from msgspec.structs import replace

from common.config import (
    Config,
    DecodeConfig,
    EmulatedConfig,
    GatewayConfig,
    MeshConfig,
    ModelConfig,
    PrefillConfig,
    RouterConfig,
    StepCost,
)
from common.memory_transport import CAPACITY, Faults
from common.messages import KvLayout
from common.schedule import Schedule

LATENCY = "a100-llama3-8b"
LLAMA3_8B = KvLayout(num_layers=32, num_kv_heads=8, head_dim=128, dtype="bfloat16")
A100 = StepCost(base=0.008, request=1e-4, token=6.5e-8)
"""16 GB of weights and 128 KiB of KV per token, read at 2 TB/s."""
FIXED = RouterConfig(calibrate_seconds=0.0, learn=False)
"""Plans by the latency model as it stands, so that they are known beforehand."""
BANDWIDTH = 25e9
"""Bytes per second of one 200 Gb/s card."""
MAX_MODEL_LEN = 131072


@dataclass(frozen=True)
class Cluster:
    """What is emulated; the defaults have room for everything and are LLaMA3-8B on A100s."""

    num_prefill: int = 16
    num_nodes: int = 2
    num_decode: int = 2
    num_brokers: int = 1
    num_gateways: int = 1
    prefill_tokens: int = 4_000_000
    decode_tokens: int = 16_000_000
    backends: int = 8
    layout: KvLayout = LLAMA3_8B
    step: StepCost = A100
    error: float = 0.0
    faults: Faults = field(default_factory=Faults)
    link_faults: Faults = field(default_factory=lambda: Faults(max_delay=0.0, min_delay=0.0))
    capacity: int = CAPACITY
    """Messages that an inbox of the network holds."""
    mesh: MeshConfig = field(default_factory=MeshConfig)
    gateway: GatewayConfig = field(default_factory=GatewayConfig)
    router: RouterConfig = FIXED
    schedule: Schedule = field(default_factory=Schedule)
    prefill: PrefillConfig = field(default_factory=PrefillConfig)
    decode: DecodeConfig = field(default_factory=DecodeConfig)
    slowdown: float = 1.0
    """Times the seconds of the router's latency model that chunks take."""
    slowdowns: Mapping[str, float] = field(default_factory=dict)
    """More of it, for single prefill instances by name."""
    seed: int = 0


def configuration(path: Path, cluster: Cluster) -> Config:
    """The configuration of every process, with a model as far as its card goes in `path`."""
    (path / "config.json").write_text(json.dumps({"max_position_embeddings": MAX_MODEL_LEN}))
    (path / "model.safetensors").write_bytes(b"")

    return Config(
        model=ModelConfig(path=str(path), name="emulated"),
        mesh=replace(cluster.mesh, router="mem://router"),
        gateway=cluster.gateway,
        router=replace(cluster.router, latency=LATENCY),
        schedule=cluster.schedule,
        prefill=replace(cluster.prefill, kv_tokens=cluster.prefill_tokens),
        decode=replace(cluster.decode, kv_tokens=cluster.decode_tokens, backends=cluster.backends),
        emulated=EmulatedConfig(
            layout=cluster.layout, step=cluster.step, bandwidth=BANDWIDTH, error=cluster.error
        ),
    )
