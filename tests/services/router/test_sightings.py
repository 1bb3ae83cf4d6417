from common.pages import Owner
from services.router.sightings import Scope, Sightings

A, B = Owner("a", 1), Owner("b", 1)
SCOPE, OTHER = Scope("m", "rule"), Scope("m", "other")


def test_only_what_disagrees_without_a_break_is_due():
    sightings = Sightings(2.0)
    assert sightings.due(SCOPE, [A, B], 0.0) == []
    assert sightings.due(SCOPE, [A], 1.0) == []
    assert sightings.due(SCOPE, [A, B], 2.0) == [A]
    assert sightings.due(SCOPE, [A, B], 4.0) == [A, B]
    assert sightings.due(OTHER, [A], 4.0) == []


def test_what_is_explained_begins_again():
    sightings = Sightings(2.0)
    sightings.due(SCOPE, [A, B], 0.0)
    sightings.due(OTHER, [A], 0.0)
    sightings.forget(A)
    assert sightings.owners == {B}
    assert sightings.due(SCOPE, [A, B], 2.0) == [B]
    sightings.restart()
    assert sightings.due(SCOPE, [A, B], 9.0) == []


def test_nothing_is_kept_of_a_member_that_is_gone():
    sightings = Sightings(2.0)
    sightings.due(SCOPE, [A], 0.0)
    sightings.due(Scope("n", "rule"), [B], 0.0)
    sightings.leave("m")
    assert sightings.owners == {B}
    assert sightings.due(SCOPE, [A], 2.0) == []
