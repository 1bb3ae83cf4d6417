from common.pages import Owner
from common.reports import Reports

A, B, C = Owner("a", 1), Owner("b", 1), Owner("c", 1)


def reports(limit: int = 8) -> Reports[str]:
    return Reports(0.5, limit)


def test_a_report_is_due_at_once_and_again_until_it_is_settled() -> None:
    owed = reports()
    owed.owe(A, "a failed")
    assert owed.due(10.0) == ["a failed"]
    assert owed.due(10.4) == []
    assert owed.due(10.5) == ["a failed"]
    owed.settle(A)
    owed.settle(A)
    assert owed.due(20.0) == []
    assert len(owed) == 0


def test_every_report_has_its_own_time() -> None:
    owed = reports()
    owed.owe(A, "a")
    assert owed.due(0.0) == ["a"]
    owed.owe(B, "b")
    assert owed.due(0.25) == ["b"]
    assert owed.due(0.5) == ["a"]
    assert owed.due(0.75) == ["b"]
    assert owed.due(9.0) == ["a", "b"]


def test_what_was_reported_of_an_attempt_first_stays() -> None:
    owed = reports()
    owed.owe(A, "failed")
    owed.owe(A, "ended")
    owed.owe(Owner("a", 2), "another attempt")
    assert owed.due(0.0) == ["failed", "another attempt"]


def test_too_many_push_the_oldest_out() -> None:
    owed = reports(limit=2)
    for owner in (A, B, C):
        owed.owe(owner, owner.request)
    assert owed.due(0.0) == ["b", "c"]


def test_a_new_life_owes_nothing() -> None:
    owed = reports()
    owed.owe(A, "a")
    owed.clear()
    assert owed.due(0.0) == []
