import json
from collections.abc import Iterator

import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, decoders, models, pre_tokenizers

from gateway.api.incremental_text import WINDOW
from gateway.api.tokenizer import Tokenizer

WORDS = ["\u2581hello", "\u2581world", "\u2581", "a", "b", "\u00e4", "\u4f60", "\u2581\u2581"]
EMOJI = "\U0001f600".encode()


@pytest.fixture(scope="module")
def falling_back(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tokenizer]:
    """One that has bytes for what its vocabulary lacks, as Llama 2 does."""
    path = tmp_path_factory.mktemp("falling-back")
    names = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *WORDS]
    vocabulary = {name: index for index, name in enumerate(names)}
    model = models.BPE(vocabulary, [], unk_token="<unk>", byte_fallback=True)
    made = tokenizers.Tokenizer(model)
    made.pre_tokenizer = pre_tokenizers.Metaspace()
    made.decoder = decoders.Sequence(
        [
            decoders.Replace("\u2581", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    made.add_special_tokens(["<s>", "</s>", AddedToken("<extra>", special=True)])
    made.save(str(path / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "</s>"}
    (path / "tokenizer_config.json").write_text(json.dumps(settings))
    loaded = Tokenizer(str(path))
    yield loaded
    loaded.close()


def pieces(tokenizer: Tokenizer, ids: list[int], *, skip: bool = True) -> list[str]:
    text = tokenizer.detokenizer(skip=skip)
    return [text.push(i) for i in ids] + [text.flush()]


def byte(value: int) -> int:
    return 3 + value


@settings(deadline=None, max_examples=500)
@given(data=st.data(), skip=st.booleans())
def test_pieces_joined_are_the_text_of_all_ids_even_with_bytes_for_characters(
    falling_back: Tokenizer, data: st.DataObject, skip: bool
) -> None:
    characters = st.text(max_size=3).map(lambda text: [byte(b) for b in text.encode()])
    others = st.integers(0, falling_back.size - 1).map(lambda i: [i])
    parts = data.draw(st.lists(characters | others | st.just([1]) | st.just([261]), max_size=40))
    ids = [i for part in parts for i in part]
    assert "".join(pieces(falling_back, ids, skip=skip)) == falling_back.decode(ids, skip=skip)


def test_a_character_of_bytes_comes_whole_with_what_follows_it(falling_back: Tokenizer) -> None:
    hello = falling_back.size - len(WORDS) - 1
    ids = [hello, *(byte(b) for b in EMOJI), hello + 3]
    assert falling_back.decode(ids) == "hello\U0001f600a"
    assert pieces(falling_back, ids) == ["hello", "", "", "", "", "\U0001f600a", ""]


def test_a_run_of_bytes_with_an_invalid_one_is_invalid_as_a_whole(falling_back: Tokenizer) -> None:
    ids = [*(byte(b) for b in EMOJI), 1, byte(0xFF)]
    told = pieces(falling_back, ids)
    assert "".join(told) == falling_back.decode(ids)
    assert set("".join(told)) == {"\ufffd"}


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
