import json

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.messages import Bias
from gateway.api.openai import ChatBody, CompletionBody, parse_chat, parse_completion
from gateway.api.parameters import _NEUTRAL, HARMLESS
from gateway.api.request import Encoding, Shown
from gateway.errors import Refusal

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
            for sampling in request.samplings():
                msgspec.convert(msgspec.to_builtins(sampling), type(sampling))
            if request.max_tokens is not None and request.min_tokens <= request.max_tokens:
                ending = request.ending(request.max_tokens)
                msgspec.convert(msgspec.to_builtins(ending), type(ending))


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
    request = parse_completion(completion(**fields))
    assert (request.ignored, request.num_ignored) == (("best_guess",), 3)


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("hi", ("hi",)),
        (["hi"], ("hi",)),
        (["a", "b"], ("a", "b")),
        ([1, 2], ([1, 2],)),
        ([[1, 2]], ([1, 2],)),
        ([[1, 2], [3]], ([1, 2], [3])),
        ([7], ([7],)),
        (["a"] * 32, ("a",) * 32),
    ],
)
def test_every_form_of_prompts_is_taken(prompt: object, expected: tuple) -> None:
    assert parse_completion(completion(prompt=prompt)).prompts == expected


def test_the_newer_name_of_max_tokens_wins_in_chats() -> None:
    body = {"model": "m", "messages": [{"role": "user", "content": "x"}], "max_tokens": 3}
    assert parse_chat(json.dumps(body).encode()).budget(10, 100) == 3
    body["max_completion_tokens"] = 4
    assert parse_chat(json.dumps(body).encode()).budget(10, 100) == 4


def test_everything_that_is_served_is_not_called_ignored() -> None:
    served = {
        "n": 2, "best_of": 2, "logit_bias": {"5": -100, "7": 3}, "presence_penalty": -2,
        "frequency_penalty": 2, "repetition_penalty": 1.3, "prompt_logprobs": 3, "echo": True,
        "include_stop_str_in_output": True, "skip_special_tokens": False, "suffix": "",
        "spaces_between_special_tokens": False, "add_special_tokens": False,
        "truncate_prompt_tokens": -1, "return_token_ids": True, "logprobs": 2,
        "return_tokens_as_token_ids": True, "priority": 3, "request_id": "r", "session_id": "s",
        "cache_salt": "c", "user": "u", "kv_transfer_params": {"a": 1},
    }  # fmt: skip
    request = parse_completion(completion(**served))
    assert (request.ignored, request.num_ignored) == ((), 0)
    sampling = request.sampling
    assert sampling.biases == (Bias(5, -100.0), Bias(7, 3.0))
    assert (sampling.presence_penalty, sampling.frequency_penalty) == (-2.0, 2.0)
    assert sampling.repetition_penalty == 1.3
    shown = Shown(True, False, 2, 3, True, True)
    assert (request.n, request.shown, request.shown.scores) == (2, shown, 3)
    assert (request.show_stops, request.skip_special, request.truncate) == (True, False, -1)
    assert request.encoding == Encoding(add_special_tokens=False)


def test_an_answer_goes_on_with_the_last_message_without_a_new_turn() -> None:
    body = {"model": "m", "messages": [{"role": "user", "content": "x"}]}
    for more, expected in (
        ({}, Encoding(False, True, False)),
        ({"add_generation_prompt": False}, Encoding(False, False, False)),
        ({"continue_final_message": True}, Encoding(False, False, True)),
        ({"add_special_tokens": True}, Encoding(True, True, False)),
    ):
        assert parse_chat(json.dumps(body | more).encode()).encoding == expected
