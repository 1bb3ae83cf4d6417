import json

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.errors import Refusal
from gateway.openai import ChatBody, CompletionBody, parse_chat, parse_completion
from gateway.parameters import _NEUTRAL, HARMLESS

NAMES = sorted({*CompletionBody.__struct_fields__, *ChatBody.__struct_fields__, *_NEUTRAL})
LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
VALUES = st.recursive(
    LEAVES, lambda v: st.lists(v, max_size=4) | st.dictionaries(st.text(max_size=8), v, max_size=3)
)


def completion(**fields: object) -> bytes:
    return json.dumps({"model": "m", "prompt": "x"} | fields).encode()


@settings(deadline=None, max_examples=400)
@given(fields=st.dictionaries(st.sampled_from(NAMES) | st.text(max_size=9), VALUES, max_size=5))
def test_whatever_comes_is_a_request_or_a_clear_refusal(fields: dict[str, object]) -> None:
    for parse in (parse_completion, parse_chat):
        body = {"model": "m", "prompt": "x", "messages": [{"role": "user", "content": "x"}]}
        try:
            request = parse(json.dumps(body | fields).encode())
        except Refusal as refusal:
            assert 400 <= refusal.status < 500
            assert json.loads(refusal.body())["error"]["message"]
        else:
            msgspec.convert(msgspec.to_builtins(request.sampling), type(request.sampling))


@given(raw=st.binary(max_size=60))
def test_any_bytes_are_refused_in_words(raw: bytes) -> None:
    with pytest.raises(Refusal):
        parse_completion(raw)


def test_null_means_absent_for_every_parameter() -> None:
    nulls = dict.fromkeys((*CompletionBody.__struct_fields__, *_NEUTRAL, *HARMLESS))
    request = parse_completion(completion(**nulls | {"model": "m", "prompt": "x"}))
    assert (request.max_tokens, request.stops, request.ignored) == (None, (), ())
    assert (request.sampling.temperature, request.sampling.logprobs) == (1.0, -1)


def test_unknown_fields_are_named_if_a_header_can_hold_their_names() -> None:
    fields = {"best_guess": 1, "a\r\nb: c": 2, "\u4f60": 3, "user": "u", "n": 1}
    assert parse_completion(completion(**fields)).ignored == ("best_guess",)


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [("hi", "hi"), (["hi"], "hi"), ([1, 2], [1, 2]), ([[1, 2]], [1, 2]), ([7], [7])],
)
def test_every_form_of_one_prompt_is_taken(prompt: object, expected: object) -> None:
    assert parse_completion(completion(prompt=prompt)).prompts == (expected,)


def test_the_newer_name_of_max_tokens_wins_in_chats() -> None:
    body = {"model": "m", "messages": [{"role": "user", "content": "x"}], "max_tokens": 3}
    assert parse_chat(json.dumps(body).encode()).budget(10, 100) == 3
    body["max_completion_tokens"] = 4
    assert parse_chat(json.dumps(body).encode()).budget(10, 100) == 4


def test_a_default_shrinks_to_the_context_and_a_full_context_is_refused() -> None:
    request = parse_completion(completion())
    assert [request.budget(length, 100) for length in (10, 90, 99)] == [16, 10, 1]
    with pytest.raises(Refusal, match=r"you requested 101 tokens \(100 in the prompt, 1 for"):
        request.budget(100, 100)
