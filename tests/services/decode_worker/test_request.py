from common.generation import Sampled
from common.pages import Owner, Span
from common.past import Past
from services.decode_worker.request import Request
from tests.services.decode_worker.transfers import job


def request(index=0, **ending):
    made = job(index=index, **ending)
    return Request(Owner("a", 1), made, 20, [Span(0, 22)], [made.first], last=made.first.id)


def test_a_token_follows_the_ones_before_and_is_handed_out_once():
    one = request(index=4)
    token = one.emit(Sampled(8, logprob=-0.5), "stop")
    assert (token.index, token.id, token.logprob, token.finish) == (5, 8, -0.5, "stop")
    assert (one.last, one.reason) == (8, "stop")
    assert [t.index for t in one.take_tokens()] == [4, 5]
    assert one.take_tokens() == []


def test_room_is_needed_when_the_last_token_has_no_slot():
    one, needs = request(), []
    for _ in range(4):
        needs.append((one.position, one.needs_room))
        one.emit(Sampled(9), None)
    assert needs == [(20, False), (21, False), (22, True), (23, True)]


def test_what_is_left_is_never_nothing():
    one, left = request(max_tokens=3), []
    for _ in range(4):
        left.append(one.num_left)
        one.emit(Sampled(9), None)
    assert left == [2, 1, 1, 1]


def test_every_token_is_one_more_that_was_emitted():
    one = request()
    one.emit(Sampled(9), None)
    assert one.past is None
    one.past = Past(b"", 0)
    for token in (9, 8, 9):
        one.emit(Sampled(token), None)
    assert [part.tolist() for part in one.past.emitted()] == [[9, 8], [2, 1]]
