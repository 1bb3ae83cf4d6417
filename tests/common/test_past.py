import numpy as np
import pytest

from common.past import Past


def ids(*tokens):
    return np.array(tokens, dtype="<i4").tobytes()


def counts(past):
    return dict(zip(*(part.tolist() for part in past.emitted()), strict=True))


def test_the_last_ids_are_the_emitted_ones():
    past = Past(ids(5, 7, 5, 9, 7, 7), 3)
    assert counts(past) == {9: 1, 7: 2}
    assert sorted(past.seen().tolist()) == [5, 7, 7, 9]


def test_what_is_added_counts_as_if_it_had_been_there_from_the_start():
    grown = Past(ids(5, 7), 0)
    for token in (9, 7, 9):
        grown.add(token)
    whole = Past(ids(5, 7, 9, 7, 9), 3)
    assert counts(grown) == counts(whole) == {9: 2, 7: 1}
    assert set(grown.seen().tolist()) == set(whole.seen().tolist()) == {5, 7, 9}


@pytest.mark.parametrize("num_emitted", [2, 50])
def test_all_of_it_may_be_emitted(num_emitted):
    past = Past(ids(5, 5), num_emitted)
    assert counts(past) == {5: 2}
    assert past.seen().tolist() == [5]


def test_nothing_has_been_seen_before_the_first_token():
    past = Past(b"", 0)
    assert counts(past) == {}
    assert past.seen().tolist() == []
