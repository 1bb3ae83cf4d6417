import pytest

from common.pages import Owner
from services.router.departures import MAX_KNOWN, PER_TOKEN, Departures

A, B = Owner("a", 1), Owner("b", 1)


def test_a_hand_over_takes_what_it_took_after_the_last_chunk():
    departures = Departures()
    for number in range(100):
        departures.computed(A, "p0", 10.0 * number)
        departures.computed(A, "p0", 10.0 * number + 1)
        departures.released(A, "p0", 10.0 * number + 1.5)
    assert departures.handover == pytest.approx(0.5, rel=0.01)


def test_each_instance_and_attempt_has_a_hand_over_of_its_own():
    departures = Departures()
    departures.computed(A, "p0", 1.0)
    departures.computed(A, "p1", 2.0)
    departures.computed(B, "p0", 3.0)
    known = [departures.since(A, "p0"), departures.since(A, "p1"), departures.since(B, "p0")]
    assert known == [1.0, 2.0, 3.0]
    departures.released(A, "p0", 4.0)
    assert departures.since(A, "p0") is None
    assert departures.since(A, "p1") == 2.0
    before = departures.handover
    departures.released(A, "p0", 50.0)
    assert departures.handover == before > 0


def test_what_is_never_released_is_forgotten():
    departures = Departures()
    for number in range(MAX_KNOWN + 10):
        departures.computed(Owner(f"r{number}", 1), "p0", 1.0)
    assert departures.since(Owner("r9", 1), "p0") is None
    assert departures.since(Owner("r10", 1), "p0") == 1.0


def test_answers_stay_as_long_as_others_did_for_what_they_may_say():
    departures = Departures()
    assert departures.stay(100) == pytest.approx(100 * PER_TOKEN)
    for number in range(400):
        # Half of them end early, which counts as quick.
        departures.answered(2.0 if number % 2 else 1.0, 100)
    assert departures.stay(100) == pytest.approx(1.5, rel=0.05)
    assert departures.stay(200) == pytest.approx(3.0, rel=0.05)
    departures.answered(-5.0, 1)
    assert departures.stay(1) > 0
