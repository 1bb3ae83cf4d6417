import pytest

from common.messages import Token
from common.pages import Owner
from services.decode_worker.journal import Journal

A = Owner("a", 1)


def note(journal, request="a", start=0, count=3):
    for index in range(start, start + count):
        journal.add(Owner(request, 1), Token(request, 1, index, 100 + index))


def indices(journal, request="a", index=0):
    tokens = journal.since(Owner(request, 1), index)
    return None if tokens is None else [token.index for token in tokens]


@pytest.mark.parametrize("is_over", [False, True])
def test_tokens_are_told_from_any_index_that_is_kept(is_over):
    journal = Journal()
    note(journal, start=4)
    if is_over:
        journal.end(A)
    assert [indices(journal, index=index) for index in (4, 5, 6, 7, 99)] == [
        [4, 5, 6],
        [5, 6],
        [6],
        [],
        [],
    ]
    assert indices(journal, index=3) is None
    assert indices(journal, "b") is None


def test_of_ended_attempts_the_last_few_are_kept():
    journal = Journal(max_ended=2)
    for name in "abcd":
        note(journal, name)
        if name != "a":
            journal.end(Owner(name, 1))
            journal.end(Owner(name, 1))
    assert indices(journal, "a") == indices(journal, "c") == indices(journal, "d") == [0, 1, 2]
    assert indices(journal, "b") is None


def test_of_ended_attempts_so_many_tokens_are_kept():
    journal = Journal(max_tokens=7)
    for name in "abc":
        note(journal, name)
        journal.end(Owner(name, 1))
    assert indices(journal, "a") is None
    assert indices(journal, "b") == indices(journal, "c") == [0, 1, 2]


def test_an_ended_attempt_longer_than_all_room_loses_its_beginning():
    journal = Journal(max_tokens=4)
    note(journal, count=9)
    assert len(indices(journal)) == 9
    journal.end(A)
    assert indices(journal, index=4) is None
    assert indices(journal, index=5) == [5, 6, 7, 8]


def test_after_clear_nothing_is_known_and_there_is_all_room():
    journal = Journal(max_tokens=3)
    note(journal, "a")
    journal.end(A)
    note(journal, "b")
    journal.clear()
    assert indices(journal, "a") is indices(journal, "b") is None
    note(journal, "c")
    journal.end(Owner("c", 1))
    assert indices(journal, "c") == [0, 1, 2]
