"""A model directory without weights: a byte-level tokenizer trained on a few words, a template."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

from gateway.api.tokenizer import Tokenizer
from tests.gateway.bench import Bench

TEXT = ["hello world, the quick brown fox", "größe 你好世界 😀😁 naïve", "stop here and there"]
TEMPLATE = (
    "{% for m in messages %}<s>{{ m.role }}: {{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}"
)


def make_model(path: Path, max_model_len: int = 512) -> Path:
    """Write tokenizer, config and one tiny weight file; special ids are <s> 0 and </s> 1."""
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=340,
        special_tokens=["<s>", "</s>"],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXT * 4, trainer)
    path.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(path / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<s>",
        "eos_token": "</s>",
        "chat_template": TEMPLATE,
        "clean_up_tokenization_spaces": True,
    }
    (path / "tokenizer_config.json").write_text(json.dumps(settings))
    config = {"model_type": "llama", "max_position_embeddings": max_model_len}
    (path / "config.json").write_text(json.dumps(config))
    (path / "model.safetensors").write_bytes(b"\x02\0\0\0\0\0\0\0{}")
    return path


@pytest.fixture(scope="session")
def model_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture(scope="session")
def tokenizer(model_path: Path) -> Iterator[Tokenizer]:
    loaded = Tokenizer(str(model_path))
    yield loaded
    loaded.close()


@pytest.fixture
def bench(model_path: Path, tokenizer: Tokenizer) -> Bench:
    return Bench(model_path, tokenizer)
