import json

import pytest
from msgspec.structs import replace

from common.config import ModelConfig
from common.errors import ConfigError
from common.messages import ModelCard
from common.model_card import EMULATED_MODEL_LEN, fingerprint, read_card


@pytest.fixture
def path(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"max_position_embeddings": 512, "x": 1}))
    (tmp_path / "model.safetensors").write_bytes(bytes(range(256)) * 4096)
    return tmp_path


def read(path, **changes):
    return read_card(ModelConfig(path=str(path), name="tiny", **changes))


def test_the_card_names_the_model_and_its_own_limit(path):
    assert read(path) == ModelCard("tiny", fingerprint(str(path)), 512)


def test_a_configured_length_may_be_shorter_but_not_longer(path):
    assert read(path, max_model_len=100).max_model_len == 100
    with pytest.raises(ConfigError, match="513 exceeds the model's own 512"):
        read(path, max_model_len=513)


def test_an_emulated_model_needs_no_directory_and_is_as_long_as_configured():
    emulated = ModelConfig(path="emulated", name="big")
    assert read_card(emulated) == ModelCard("big", "emulated", EMULATED_MODEL_LEN)
    longer = replace(emulated, max_model_len=2 * EMULATED_MODEL_LEN)
    assert read_card(longer).max_model_len == 2 * EMULATED_MODEL_LEN


def test_the_fingerprint_ignores_how_the_configuration_is_written(path):
    before = fingerprint(str(path))
    (path / "config.json").write_text('{ "x": 1, "max_position_embeddings": 512 }')
    assert fingerprint(str(path)) == before


@pytest.mark.parametrize("at", [0, 8, 500_000 // 16384 * 16384])
def test_the_fingerprint_sees_other_weights(path, at):
    before = fingerprint(str(path))
    weights = bytearray((path / "model.safetensors").read_bytes())
    weights[at] ^= 1
    (path / "model.safetensors").write_bytes(weights)
    assert fingerprint(str(path)) != before


def test_the_fingerprint_sees_another_configuration(path):
    before = fingerprint(str(path))
    (path / "config.json").write_text('{"max_position_embeddings": 512, "x": 2}')
    assert fingerprint(str(path)) != before


@pytest.mark.parametrize("text", ["[]", "{", '{"max_position_embeddings": "long"}', "{}"])
def test_an_unusable_configuration_is_refused(path, text):
    (path / "config.json").write_text(text)
    with pytest.raises(ConfigError, match=r"config\.json|directory"):
        read(path)


def test_a_directory_without_safetensors_is_refused(path):
    (path / "model.safetensors").unlink()
    with pytest.raises(ConfigError, match=r"no \*\.safetensors"):
        read(path)
