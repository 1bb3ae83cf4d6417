import pytest

from common.generation import finish, forbidden, stops
from common.messages import Ending

EOS = frozenset({2, 3})


@pytest.mark.parametrize(
    ("ending", "expected"),
    [
        (Ending(9), {2, 3}),
        (Ending(9, stop_token_ids=(5,)), {2, 3, 5}),
        (Ending(9, stop_token_ids=(5,), ignore_eos=True), {5}),
        (Ending(9, stop_token_ids=(2,), ignore_eos=True), {2}),
    ],
)
def test_eos_and_stop_ids_end_a_generation(ending, expected):
    assert stops(ending, EOS) == expected
    for token in range(7):
        assert finish(ending, EOS, token, 1) == ("stop" if token in expected else None)


def test_the_last_allowed_token_ends_it_by_length():
    assert [finish(Ending(3), EOS, 1, n) for n in (1, 2, 3)] == [None, None, "length"]


def test_a_stop_at_the_last_token_is_a_stop():
    assert finish(Ending(3), EOS, 2, 3) == "stop"


def test_nothing_may_end_it_before_min_tokens():
    ending = Ending(9, min_tokens=2, stop_token_ids=(5,))
    assert [forbidden(ending, EOS, n) for n in (0, 1, 2)] == [{2, 3, 5}, {2, 3, 5}, set()]
