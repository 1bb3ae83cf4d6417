import asyncio
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import ConfigError
from gateway.errors import Refusal
from gateway.incremental_text import WINDOW
from gateway.request import ChatMessage, TextPart
from gateway.tokenizer import Tokenizer


@settings(deadline=None, max_examples=300)
@given(data=st.data())
def test_pieces_joined_are_the_text_of_all_ids(tokenizer: Tokenizer, data: st.DataObject) -> None:
    ids = data.draw(st.lists(st.integers(0, tokenizer.size - 1), max_size=120))
    text = tokenizer.detokenizer()
    assert "".join([text.push(i) for i in ids] + [text.flush()]) == tokenizer.decode(ids)


@settings(deadline=None, max_examples=100)
@given(sample=st.text(max_size=60))
def test_valid_text_never_shows_replacement_characters(tokenizer: Tokenizer, sample: str) -> None:
    sample = sample.replace("\ufffd", "")
    ids = tokenizer._tokenizer.encode(sample)
    text = tokenizer.detokenizer()
    pieces = [text.push(i) for i in ids]
    assert "\ufffd" not in "".join(pieces)
    assert "".join(pieces) + text.flush() == tokenizer.decode(ids)


def test_endless_special_tokens_or_broken_bytes_keep_the_window_bounded(
    tokenizer: Tokenizer,
) -> None:
    broken = next(i for i in range(tokenizer.size) if tokenizer.piece(i) == "\ufffd")
    for token_id in (1, broken):
        text = tokenizer.detokenizer()
        for _ in range(3 * WINDOW):
            text.push(token_id)
        assert len(text._window) <= 2 * WINDOW


def test_a_chat_goes_through_the_models_template(tokenizer: Tokenizer) -> None:
    messages = [
        ChatMessage("system", "hello"),
        ChatMessage("user", [TextPart("text", "quick "), TextPart("text", "fox")]),
    ]
    ids = asyncio.run(tokenizer.encode(messages))
    assert tokenizer.piece(ids[0]) == "<s>"
    assert tokenizer.decode(ids) == "system: hello\nuser: quick fox\nassistant:"


def test_a_chat_that_the_template_refuses_is_the_clients_mistake(model_path: Path) -> None:
    tokenizer = Tokenizer(str(model_path))
    tokenizer._tokenizer.chat_template = "{{ raise_exception('Roles must alternate') }}"
    with pytest.raises(Refusal, match="Roles must alternate") as refused:
        asyncio.run(tokenizer.encode([ChatMessage("user", "a")]))
    assert (refused.value.status, refused.value.param) == (400, "messages")
    tokenizer.close()


def test_ids_pass_unchanged_and_unknown_ones_are_refused(tokenizer: Tokenizer) -> None:
    assert asyncio.run(tokenizer.encode([5, 6, 7])) == [5, 6, 7]
    with pytest.raises(Refusal) as refused:
        asyncio.run(tokenizer.encode([5, tokenizer.size]))
    assert refused.value.param == "prompt"


def test_a_directory_without_tokenizer_is_a_configuration_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="tokenizer"):
        Tokenizer(str(tmp_path))
