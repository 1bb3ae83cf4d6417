import asyncio
import random

import pytest
from transformers import PreTrainedTokenizerBase

from gateway.api.emulated_tokenizer import BOS, EOS, emulated_tokenizer
from gateway.api.tokenizer import Tokenizer


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    return emulated_tokenizer()


def test_every_byte_of_a_text_is_its_own_id(tokenizer: PreTrainedTokenizerBase) -> None:
    for text in ("hello, world", "  two  spaces\n\n\tand more ", "größe 你好 😀", "", "\x00\x7f"):
        assert tokenizer.encode(text) == list(text.encode())


def test_any_bytes_have_a_text_that_is_theirs(tokenizer: PreTrainedTokenizerBase) -> None:
    assert tokenizer.decode(list(range(128))) == bytes(range(128)).decode()
    rng = random.Random(5)
    for _ in range(50):
        ids = [rng.randrange(256) for _ in range(200)]
        assert tokenizer.decode(ids) == bytes(ids).decode(errors="replace")


def test_special_tokens_are_the_ids_after_the_bytes(tokenizer: PreTrainedTokenizerBase) -> None:
    assert len(tokenizer) == 258
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id) == (256, 257)
    assert tokenizer.encode(f"a{BOS}b{EOS}") == [97, 256, 98, 257]
    assert tokenizer.decode([97, 256, 98, 257], skip_special_tokens=True) == "ab"


def test_a_conversation_becomes_lines(tokenizer: PreTrainedTokenizerBase) -> None:
    turns = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "hi"}]
    text = tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
    assert text == "system: be brief\nuser: hi\nassistant: "


def test_the_gateways_tokenizer_takes_it_where_the_model_is_emulated() -> None:
    tokenizer = Tokenizer("emulated")
    try:
        assert asyncio.run(tokenizer.encode("a few words")) == list(b"a few words")
        assert tokenizer.decode([104, 105]) == "hi"
        assert tokenizer.size == 258
    finally:
        tokenizer.close()
