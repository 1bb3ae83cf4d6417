import numpy as np

from common.messages import Alternative, Score
from common.scores import Scores


def test_rows_travel_with_their_alternatives():
    scores = Scores(
        5,
        np.array([-1.5, -0.25, -3.0], np.float32),
        np.array([[4, 7], [8, 1], [2, 3]], np.int32),
        np.array([[-0.5, -1.5], [-0.25, -2.0], [-0.125, -4.0]], np.float32),
    )
    assert len(scores) == 3
    assert scores.message(slice(1, 3)) == (
        Score(-0.25, (Alternative(8, -0.25), Alternative(1, -2.0))),
        Score(-3.0, (Alternative(2, -0.125), Alternative(3, -4.0))),
    )


def test_rows_without_alternatives_have_none():
    none = np.empty((2, 0))
    scores = Scores(1, np.array([-1.0, -2.0], np.float32), none.astype(np.int32), none)
    assert scores.message(slice(None)) == (Score(-1.0), Score(-2.0))
