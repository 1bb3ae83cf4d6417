from tests.faults.stream import NONE, Answer, Difference, compare


def test_lost_repeated_and_other_tokens_are_told_apart() -> None:
    expected = list("abcdef")
    assert compare(expected, list("abcdef")) == NONE
    assert compare(expected, list("abef")) == Difference(lost=2)
    assert compare(expected, list("abccdef")) == Difference(duplicated=1)
    assert compare(expected, list("abXdef")) == Difference(changed=1)
    assert compare(expected, list("abcdeX")) == Difference(changed=1)


def test_an_answer_is_whole_only_with_its_end() -> None:
    answer = Answer()
    answer.take(
        b'data: {"id": "cmpl-1", "choices": [{"text": "a", "finish_reason": "length", '
        b'"logprobs": {"tokens": ["a"]}}]}\n'
    )
    assert answer.wrong == "0 [DONE]"
    answer.take(b": ping\n")
    answer.take(b"data: [DONE]\n")
    assert (answer.wrong, answer.tokens, answer.finishes) == ("", ["a"], ["length"])
    answer.take(b'data: {"error": {"message": "gone"}}\n')
    assert "gone" in answer.wrong
