from common.messages import Cancel, Ending, EndOfRequest, Finish, Sampling, Token
from gateway.api.stops import Stops
from gateway.errors import Refusal
from gateway.mesh.call import Call
from gateway.mesh.streams import Stream
from tests.gateway.desk import DECODE, Letters


def call(*stops: str) -> Call:
    stream = Stream([7], Sampling(), Ending(100), Stops(stops), Letters())
    return Call("r", stream, None, 0.0)


def give(to: Call, letter: str, finish: Finish | None = None) -> None:
    index = len(to.stream.emitted)
    assert to.stream.take(Token("r", to.stream.attempt, index, ord(letter), finish=finish))


def test_attempts_in_a_row_without_a_token_are_counted_and_then_end_it() -> None:
    one = call()
    for _ in range(2):
        one.renew(1.0, 3)
    give(one, "a")
    for _ in range(3):
        one.renew(1.0, 3)
        assert one.failure is None
    one.renew(1.0, 3)
    assert one.failure is not None
    assert (one.failure.status, one.stream.attempt) == (503, 6)


def test_evicted_attempts_do_not_count_and_stay_known() -> None:
    one = call()
    for _ in range(10):
        one.renew(1.0, 2, evicted=True)
    assert (one.failure, one.fruitless, one.stream.attempt) == (None, 0, 11)
    one.renew(1.0, 2)
    message, ids = one.submit(DECODE, 1.5, 2.0)
    assert (message.evicted, message.attempt, len(ids)) == (True, 12, 4)


def test_what_nobody_can_hold_is_not_cancelled() -> None:
    one = call()
    assert one.let_go() is None
    one.submit(DECODE, 0.5, 1.0)
    assert one.let_go() == Cancel("r", 1)
    assert one.let_go() is None


def test_a_stop_string_is_told_and_an_end_by_the_workers_is_not() -> None:
    one = call("b")
    one.submit(DECODE, 0.5, 1.0)
    give(one, "a")
    give(one, "b")
    assert one.let_go() == EndOfRequest("r", 1, 2, "stop")
    two = call()
    two.submit(DECODE, 0.5, 1.0)
    give(two, "a", "length")
    assert two.let_go() is None


def test_what_has_ended_cannot_fail_any_more() -> None:
    one = call()
    give(one, "a", "stop")
    one.fail(Refusal(500, "late"))
    assert one.failure is None
