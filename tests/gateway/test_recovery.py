"""How calls take failures, rejections and a fence."""

from common.messages import Failed, Rejected
from tests.gateway.desk import Desk, batch


def test_a_failure_that_is_final_tells_the_client_no_names() -> None:
    desk = Desk()
    call = desk.open()
    desk.take()
    desk.receive(Failed("r", 1, "prefill-3", "10.0.0.1 is broken", False))
    assert call.failure is not None
    assert (call.failure.status, call.failure.message) == (500, "The request failed in the server.")
    desk.close()
    assert desk.take() == []


def test_attempts_without_tokens_end_with_503() -> None:
    desk = Desk(max_attempts=2)
    call = desk.open()
    desk.receive(Failed("r", 1, "decode", "lost", True))
    desk.receive(Failed("r", 2, "decode", "lost", True, evicted=True))
    assert (desk.submit.attempt, desk.submit.evicted, call.failure) == (3, True, None)
    desk.receive(Failed("r", 3, "decode", "lost", True))
    assert call.failure is not None
    assert (call.failure.status, desk.submit.attempt) == (503, 3)


def test_a_full_queue_ends_a_first_attempt_and_delays_a_later_one() -> None:
    desk = Desk()
    call = desk.open()
    desk.receive(Failed("r", 1, "decode", "lost", True))
    desk.receive(Rejected("r", 2, 503, "the queue is full", 3.0))
    assert desk.calls.facts().open == ()
    assert desk.tick(2.9) == []
    (submit,) = desk.tick(0.1)
    assert (submit.attempt, call.failure) == (2, None)
    desk.receive(Rejected("r", 2, 400, "too long"))
    assert call.failure is not None
    assert call.failure.status == 400
    waited = desk.open(name="w")
    desk.receive(Failed("w", 1, "decode", "lost", True))
    desk.receive(Rejected("w", 2, 503, "there is no decode instance"))
    assert waited.failure is not None
    assert waited.failure.status == 503
    other = desk.open(name="s")
    desk.receive(Rejected("s", 1, 503, "the queue is full", 3.0))
    assert other.failure is not None
    assert other.failure.retry_after == 3.0


def test_a_fenced_gateway_begins_every_open_call_again_as_its_new_life() -> None:
    desk = Desk()
    desk.open()
    desk.receive(batch(0, "ab"))
    desk.open(name="over")
    desk.receive(Rejected("over", 1, 400, "too long"))
    desk.take()
    desk.calls.fence()
    assert desk.take() == []
    desk.process.renew()
    (submit,) = desk.tick()
    assert (submit.request, submit.attempt, submit.num_emitted) == ("r", 2, 2)
    assert submit.reply.incarnation == 8
