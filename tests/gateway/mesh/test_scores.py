import random

from hypothesis import given
from hypothesis import strategies as st

from common.messages import Score
from gateway.mesh.scores import Scores


@given(length=st.integers(1, 60), size=st.integers(1, 9), seed=st.integers(0, 99))
def test_pieces_of_any_order_twice_over_make_the_whole(length: int, size: int, seed: int) -> None:
    known = [Score(-float(position)) for position in range(1, length)]
    pieces = [(at + 1, known[at:][:size]) for at in range(0, len(known), size)] * 2
    random.Random(seed).shuffle(pieces)
    scores, taken = Scores(length, 0), 0
    for start, piece in pieces:
        assert not scores.complete
        taken += scores.take(start, piece)
        if scores.complete:
            break
    assert taken == len({start for start, _ in pieces})
    assert scores.all() == [None, *known]


def test_a_prompt_of_one_token_has_nothing_to_wait_for() -> None:
    assert Scores(1, 5).complete


def test_scores_beyond_the_prompt_are_of_emitted_tokens_and_are_left_out() -> None:
    scores = Scores(3, 0)
    assert scores.take(2, [Score(-2.0), Score(-3.0), Score(-4.0)])
    assert not scores.take(3, [Score(-3.0)])
    assert not scores.take(0, [Score(-9.0)])
    assert scores.take(1, [Score(-1.0)])
    assert scores.all() == [None, Score(-1.0), Score(-2.0)]
