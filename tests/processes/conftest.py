"""One mesh of 4 prefill processes and one reference model for all tests of this folder."""

import pydoc_data.topics
from collections.abc import Iterator
from pathlib import Path

import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from compose.model_cache import DEFAULT_MODEL, ModelCache, default_directory
from tests.processes.real_mesh import RealMesh, running_mesh
from tests.processes.reference import Reference


@pytest.fixture(scope="session")
def model_path() -> Path:
    return ModelCache(default_directory(), lambda _: None).resolve(DEFAULT_MODEL)


@pytest.fixture(scope="session")
def mesh(model_path: Path) -> Iterator[RealMesh]:
    with running_mesh("--prefill", "4") as running:
        yield running


@pytest.fixture(scope="session")
def reference(model_path: Path) -> Reference:
    return Reference(str(model_path))


@pytest.fixture(scope="session")
def tokenizer(model_path: Path) -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(model_path)


@pytest.fixture(scope="session")
def text_ids(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Real text: the topics of Python's own help, as one list of ids."""
    text = "\n\n".join(pydoc_data.topics.topics.values())
    return list(tokenizer(text[:60_000], add_special_tokens=False)["input_ids"])
