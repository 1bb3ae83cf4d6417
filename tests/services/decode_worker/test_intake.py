import pytest

from common.errors import OutOfPages
from common.pages import Owner, Span
from services.decode_worker.intake import Intake
from services.decode_worker.slots import Slots
from tests.services.decode_worker.transfers import commit, layer


class Rig:
    """Clock, worker and loop of an intake."""

    def __init__(self, num_pages):
        self.posted = []
        self.slots = Slots(num_pages)
        self.intake = Intake(self, self.slots, self, lambda *call: self.posted.append(call))

    def now(self):
        return 4.0

    def want(self, message):
        raise AssertionError("called outside of the loop")

    commit = want


def test_slots_are_opened_where_the_receiver_stands():
    rig = Rig(2)
    assert rig.intake.open(layer(0)) == [Span(0, 32)]
    assert rig.slots.held(5.0)[0].age == 1.0
    assert rig.posted == []
    rig.slots.end(Owner("a", 1))
    assert rig.intake.open(layer(1)) is None


def test_the_loop_is_told_of_kv_without_room_and_the_receiver_too():
    rig = Rig(1)
    with pytest.raises(OutOfPages):
        rig.intake.open(layer(0))
    assert rig.posted == [(rig.want, layer(0))]


def test_commits_are_the_loops_to_book():
    rig = Rig(1)
    rig.intake.commit(commit())
    assert rig.posted == [(rig.commit, commit())]
