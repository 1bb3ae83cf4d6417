import asyncio
import random
from pathlib import Path

import pytest
from tokenizers import processors

from common.errors import ConfigError
from gateway.api.request import ChatMessage, Encoding, TextPart
from gateway.api.tokenizer import Tokenizer
from gateway.errors import Refusal


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


def test_special_tokens_are_added_to_text_but_not_to_chats_unless_that_is_asked_for(
    model_path: Path,
) -> None:
    tokenizer = Tokenizer(str(model_path))
    begin = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    tokenizer._tokenizer.backend_tokenizer.post_processor = begin

    def encoded(prompt: object, special: bool | None) -> list[int]:
        return list(asyncio.run(tokenizer.encode(prompt, Encoding(special))))

    plain = encoded("hello", False)
    assert encoded("hello", None) == encoded("hello", True) == [0, *plain]
    chat = [ChatMessage("user", "hello")]
    bare = encoded(chat, None)
    assert encoded(chat, False) == bare
    assert encoded(chat, True) == [0, *bare]
    tokenizer.close()


def test_a_chat_can_go_on_with_its_last_message_or_leave_the_next_turn_open(
    tokenizer: Tokenizer,
) -> None:
    messages = [ChatMessage("user", "quick"), ChatMessage("assistant", "the fox")]

    def text(**how: bool) -> str:
        return tokenizer.decode(asyncio.run(tokenizer.encode(messages, Encoding(**how))))

    turns = "user: quick\nassistant: the fox\n"
    assert text() == turns + "assistant:"
    assert text(add_generation_prompt=False) == turns
    ending = text(add_generation_prompt=False, continue_final_message=True)
    assert ending == turns.removesuffix("\n")


def test_a_message_that_the_template_leaves_out_cannot_be_continued(model_path: Path) -> None:
    tokenizer = Tokenizer(str(model_path))
    tokenizer._tokenizer.chat_template = "nothing"
    with pytest.raises(Refusal) as refused:
        asyncio.run(tokenizer.encode([ChatMessage("user", "a")], Encoding(None, False, True)))
    assert (refused.value.status, refused.value.param) == (400, "messages")
    tokenizer.close()


def test_special_tokens_have_text_where_they_are_not_skipped(tokenizer: Tokenizer) -> None:
    ids = asyncio.run(tokenizer.encode("<s>hello</s>"))
    assert (ids[0], ids[-1]) == (0, 1)
    assert tokenizer.decode(ids) == "hello"
    assert tokenizer.decode(ids, skip=False) == "<s>hello</s>"
    for skip, text in ((True, "hello"), (False, "<s>hello</s>")):
        one = tokenizer.detokenizer(skip=skip)
        assert "".join(one.push(i) for i in ids) + one.flush() == text


@pytest.mark.parametrize("skip", [False, True])
def test_ids_become_the_text_that_transformers_says(tokenizer: Tokenizer, skip: bool) -> None:
    pick, whole = random.Random(3), tokenizer._tokenizer
    for _ in range(300):
        ids = [pick.randrange(tokenizer.size) for _ in range(pick.randrange(12))]
        assert tokenizer.decode(ids, skip=skip) == whole.decode(
            ids, skip_special_tokens=skip, clean_up_tokenization_spaces=False
        )
