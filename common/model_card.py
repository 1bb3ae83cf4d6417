"""What a process says of its model when it joins; read from the directory, without torch."""

import hashlib
import json
from pathlib import Path

from common.config import ModelConfig
from common.errors import ConfigError
from common.messages import ModelCard

EMULATED_MODEL_LEN = 131072
"""Tokens that an emulated model takes when nothing is configured."""
SAMPLES = 64
SAMPLE_BYTES = 4096


def read_card(model: ModelConfig) -> ModelCard:
    """The card of a local model; `max_model_len` in tokens, at most the model's own.

    One that is emulated is as long as configured.

    Raises:
        ConfigError: the directory has no readable config.json or no safetensors, or the
            configured length exceeds the model's.
    """
    if model.is_emulated:
        length = model.max_model_len or EMULATED_MODEL_LEN
        return ModelCard(name=model.name, fingerprint=model.path, max_model_len=length)
    own = read_config(model.path).get("max_position_embeddings")
    if not isinstance(own, int) or own < 1:
        raise ConfigError(f"{model.path}/config.json names no max_position_embeddings")
    if model.max_model_len is not None and model.max_model_len > own:
        raise ConfigError(
            f"model.max_model_len = {model.max_model_len} exceeds the model's own {own}"
        )
    length = model.max_model_len or own
    return ModelCard(name=model.name, fingerprint=fingerprint(model.path), max_model_len=length)


def read_config(path: str) -> dict[str, object]:
    """The model's config.json.

    Raises:
        ConfigError: it is missing or is no JSON object.
    """
    try:
        config = json.loads((Path(path) / "config.json").read_bytes())
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} is not a Hugging Face model directory: {error}") from error
    if not isinstance(config, dict):
        raise ConfigError(f"{path}/config.json is not a JSON object")
    return config


def fingerprint(path: str) -> str:
    """32 hex digits that tell models apart: configuration, weight headers, samples of weights.

    Reading all weights would cost seconds at every start; blocks spread over each file find
    another checkpoint or fine-tune of the same shape.

    Raises:
        ConfigError: the directory is not a model with safetensors.
    """
    weights = sorted(Path(path).glob("*.safetensors"))
    if not weights:
        raise ConfigError(f"{path} holds no *.safetensors files")
    canonical = json.dumps(read_config(path), sort_keys=True)
    digest = hashlib.sha256(canonical.encode())
    for file in weights:
        size = file.stat().st_size
        digest.update(f"{file.name}:{size}".encode())
        with file.open("rb") as stream:
            for sample in range(SAMPLES):
                stream.seek(size * sample // SAMPLES)
                digest.update(stream.read(SAMPLE_BYTES))
    return digest.hexdigest()[:32]
