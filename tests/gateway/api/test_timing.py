from common.messages import Ending, Sampling, Token
from gateway.api.stops import Stops
from gateway.api.timing import Metrics, measure
from gateway.mesh.call import Call
from gateway.mesh.streams import Stream
from tests.gateway.desk import Letters


def call(*moments: float) -> Call:
    """One whose tokens came at these moments."""
    stream = Stream([7], Sampling(), Ending(99), Stops(), Letters())
    one = Call("r", stream, None, 10.0)
    for index, moment in enumerate(moments):
        stream.take(Token("r", 1, index, 97))
        one.first = moment if one.first is None else one.first
        one.last = moment
    return one


def test_the_times_of_one_choice() -> None:
    assert measure([call(10.5, 10.6, 10.9)]) == Metrics(500.0, 400.0, None, 200.0, 5.0)


def test_choices_are_taken_together() -> None:
    early, late = call(11.0, 12.0), call(13.0, 13.5, 15.0)
    early.queued, late.queued = 0.25, 9.0
    assert measure([late, early, call()]) == Metrics(1000.0, 4000.0, 250.0, 1000.0, 1.0)


def test_what_was_not_measured_is_not_told() -> None:
    assert measure([call()]) == Metrics(None, None, None, None, None)
    assert measure([call(10.5)]) == Metrics(500.0, 0.0, None, None, None)
