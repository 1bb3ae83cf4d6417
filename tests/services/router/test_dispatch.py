from common.messages import Member, Skip
from services.router.dispatch import Dispatch


class Run:
    """Only the turn of a RunChunk and the life that it is for matter here."""

    def __init__(self, turn):
        self.turn = turn
        self.rank = 0
        self.members = (Member("p", 3, "in", "ring", "balance"),)


def dispatch_of(*turns):
    dispatch = Dispatch(9, 0.5)
    dispatch.join("p")
    for turn in turns:
        dispatch.send("p", Run(turn), b"ids", 0.0)
    return dispatch


def turns(parcels):
    return [parcel.message.turn for parcel in parcels]


def test_a_turn_is_repeated_at_intervals_until_it_has_arrived():
    dispatch = dispatch_of(1, 2, 3)
    assert turns(dispatch.late("p", 0.4)) == []
    assert turns(dispatch.late("p", 0.5)) == [1, 2, 3]
    assert turns(dispatch.late("p", 0.9)) == []
    dispatch.acknowledge("p", 2)
    assert turns(dispatch.late("p", 1.0)) == [3]


def test_a_void_turn_is_skipped_unless_it_has_arrived():
    dispatch = dispatch_of(1, 2)
    dispatch.acknowledge("p", 1)
    assert dispatch.void("p", 1, 0.1) is None
    parcel = dispatch.void("p", 2, 0.1)
    assert (parcel.message, parcel.ids) == (Skip(3, 9, 2), None)
    assert [parcel.message for parcel in dispatch.late("p", 0.6)] == [Skip(3, 9, 2)]
    assert dispatch.void("p", 2, 0.7).message == Skip(3, 9, 2)
    assert dispatch.void("stranger", 1, 0.1) is None


def test_a_new_life_gets_nothing_of_the_old_one():
    dispatch = dispatch_of(1)
    dispatch.leave("p")
    dispatch.join("p")
    assert turns(dispatch.late("p", 9.0)) == []
