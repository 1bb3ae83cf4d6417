import json

import pytest

from common.messages import MAX_PAST, Sampling
from gateway.api.openai import parse_completion
from gateway.api.request import Request
from gateway.errors import Refusal


def request(**fields: object) -> Request:
    return parse_completion(json.dumps({"model": "m", "prompt": "x"} | fields).encode())


def test_a_default_shrinks_to_the_context_and_a_full_context_is_refused() -> None:
    one = request()
    assert [one.budget(length, 100) for length in (10, 90, 99)] == [16, 10, 1]
    with pytest.raises(Refusal, match=r"you requested 101 tokens \(100 in the prompt, 1 for"):
        one.budget(100, 100)


@pytest.mark.parametrize(
    ("wanted", "kept"),
    [
        ({}, 300),
        ({"truncate_prompt_tokens": 40}, 40),
        ({"truncate_prompt_tokens": 400}, 300),
        ({"truncate_prompt_tokens": -1, "max_tokens": 250}, 262),
        ({"truncate_prompt_tokens": -1}, 300),
        ({"truncate_prompt_tokens": -1, "max_tokens": 512}, 1),
    ],
)
def test_a_prompt_keeps_its_last_tokens(wanted: dict, kept: int) -> None:
    assert request(**wanted).kept(300, 512) == kept


def test_more_than_the_context_cannot_be_kept() -> None:
    with pytest.raises(Refusal) as refused:
        request(truncate_prompt_tokens=513).kept(3, 512)
    assert refused.value.param == "truncate_prompt_tokens"


@pytest.mark.parametrize("name", ["presence_penalty", "frequency_penalty", "repetition_penalty"])
def test_penalties_look_back_no_further_than_a_message_can_hold(name: str) -> None:
    reach, limit = MAX_PAST // 4, 10**6
    one = request(**{name: 1.5, "max_tokens": 10})
    assert one.budget(reach - 10, limit) == 10
    with pytest.raises(Refusal, match="look back") as refused:
        one.budget(reach - 9, limit)
    assert (refused.value.status, refused.value.param) == (400, name)
    # A default shrinks; without penalties nothing is looked back at.
    assert request(**{name: 1.5}).budget(reach - 3, limit) == 3
    assert request(max_tokens=10).budget(reach, limit) == 10


def test_choices_differ_and_are_the_same_again_with_a_seed_of_the_client() -> None:
    seeded = request(n=3, seed=-1, temperature=0.5).samplings()
    assert seeded == [Sampling(temperature=0.5, seed=2**63 - 1, choice=i) for i in range(3)]
    free = request(n=2)
    first, second = free.samplings(), free.samplings()
    assert first[0].seed == first[1].seed != second[0].seed


def test_an_echo_that_wants_nothing_has_one_token_sampled() -> None:
    one = request(echo=True, max_tokens=0)
    assert one.budget(512, 512) == 0
    assert one.ending(0).max_tokens == 1
    with pytest.raises(Refusal, match=r"513 tokens \(513 in the prompt, 0 for"):
        one.budget(513, 512)
