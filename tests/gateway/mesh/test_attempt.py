from common.messages import Peer
from gateway.mesh.attempt import ASK, Attempt

DECODE = Peer("decode-0", 1, "memory:decode")
STALL = 30.0


def decoding(now: float) -> Attempt:
    attempt = Attempt(0, 0.0)
    attempt.token(DECODE, now, is_decoding=True, has_grown=True)
    return attempt


def test_it_is_submitted_until_it_is_answered() -> None:
    attempt = Attempt(0, submit_at=5.0)
    assert attempt.due(4.9, STALL, gap=False) is None
    assert attempt.due(5.0, STALL, gap=False) == "submit"
    attempt.accepted = True
    assert attempt.due(1e6, STALL, gap=False) is None


def test_nothing_is_asked_for_and_nothing_stalls_before_the_first_token() -> None:
    attempt = Attempt(0, 0.0, accepted=True)
    assert attempt.due(1e9, STALL, gap=False) is None


def test_decode_is_asked_once_a_second_while_nothing_comes() -> None:
    attempt = decoding(10.0)
    assert attempt.due(10.0 + ASK - 0.1, STALL, gap=False) is None
    assert attempt.due(10.0 + ASK, STALL, gap=False) == "ask"
    attempt.asked(11.0)
    assert attempt.due(11.9, STALL, gap=False) is None
    assert attempt.due(12.0, STALL, gap=False) == "ask"


def test_a_gap_is_asked_for_at_once() -> None:
    assert decoding(10.0).due(10.0, STALL, gap=True) == "ask"


def test_decode_is_not_asked_while_kv_may_still_be_on_its_way_to_it() -> None:
    attempt = Attempt(0, 0.0)
    attempt.token(DECODE, 10.0, is_decoding=False, has_grown=True)
    assert attempt.due(20.0, STALL, gap=False) is None
    assert attempt.due(10.0 + 2 * STALL, STALL, gap=False) is None
    attempt.over()
    assert attempt.due(20.0, STALL, gap=False) == "ask"


def test_after_the_stall_it_is_given_up_even_if_tokens_come_behind_a_gap() -> None:
    attempt = decoding(10.0)
    for second in range(11, 40):
        attempt.token(DECODE, float(second), is_decoding=True, has_grown=False)
        assert attempt.due(float(second), STALL, gap=True) == "ask"
    assert attempt.due(40.0, STALL, gap=True) == "renew"


def test_one_that_was_rejected_is_submitted_again_later() -> None:
    attempt = Attempt(0, 0.0, accepted=True, may_be_held=True)
    attempt.rejected(submit_at=7.0)
    assert not attempt.may_be_held
    assert attempt.due(6.9, STALL, gap=False) is None
    assert attempt.due(7.0, STALL, gap=False) == "submit"
