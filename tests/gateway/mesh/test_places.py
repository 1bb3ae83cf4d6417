import pytest

from gateway.errors import Refusal
from gateway.mesh.places import MAX_OPEN
from tests.gateway.desk import Desk


def test_places_are_taken_together_or_not_at_all_and_are_all_given_back() -> None:
    places = Desk(max_requests=5).calls.places
    with places.take(), places.take(3):
        with pytest.raises(Refusal) as refused, places.take(2):
            raise AssertionError
        assert (refused.value.status, refused.value.retry_after) == (503, 1.0)
        with places.take(1), places.take(0):
            assert places.taken == 5
        assert places.taken == 4
    assert places.taken == 0


def test_there_are_no_more_than_a_heartbeat_can_list() -> None:
    assert Desk(max_requests=10**6).calls.places.total == MAX_OPEN
