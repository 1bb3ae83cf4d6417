import msgspec
import pytest

from common.events import Planned
from gateway.window.account import account_of, brief_of
from tests.gateway.happenings import MEMBERS, story
from tests.gateway.window.test_journeys import Table, first, joining, times, token


def test_another_gateways_request_is_told_from_the_events_alone() -> None:
    account = account_of("r", None, story("r", 10.0))
    assert (account.outcome, account.generated_tokens, account.prompt_tokens) == (
        "length",
        30,
        1000,
    )
    assert (account.request_id, account.arrived) == (None, 10.0)
    assert account.ttft.measured is None
    assert account.ttft.predicted == pytest.approx(1.0)
    (attempt,) = account.attempts
    assert attempt.waited == 10.0
    assert (attempt.decode.instance, attempt.decode.slots) == ("decode-0", 1024)
    assert (attempt.over.how, attempt.over.num_tokens) == ("length", 30)
    assert attempt.transfer.seconds == pytest.approx(0.15)
    assert [moment.member for moment in attempt.transfer.released] == list(MEMBERS)
    assert (attempt.plan.policy, attempt.plan.ttft, attempt.plan.shadow) == ("cdsp", 0.95, 1.25)


def test_each_chunk_has_what_was_predicted_beside_what_was_measured() -> None:
    account = account_of("r", None, story("r", 10.0))
    one, two = account.attempts[0].plan.chunks
    assert (one.index, one.length, one.size, one.members) == (0, 300, 2, MEMBERS[:2])
    assert (two.index, two.length, two.size, two.members) == (1, 700, 4, MEMBERS)
    assert (one.predicted.start, one.predicted.seconds) == (pytest.approx(10.1), 0.4)
    assert one.measured.start == pytest.approx(10.11)
    assert one.measured.end == pytest.approx(10.5)
    assert one.measured.seconds == pytest.approx(0.39)
    work = two.measured.members[2]
    assert (work.member, work.gather, work.balance) == ("prefill-2", 0.02, 0.1)
    assert (work.compute, work.wait, work.send) == (0.4, 0.08, 0.05)


def test_what_has_not_happened_yet_or_got_lost_is_absent() -> None:
    events = story("r", 10.0)
    planned = account_of("r", None, events[:2])
    assert planned.outcome == "open"
    chunk = planned.attempts[0].plan.chunks[0]
    assert (chunk.measured.start, chunk.measured.end, chunk.measured.members) == (None, None, [])
    assert (planned.attempts[0].decode.instance, planned.attempts[0].decode.at) == (
        "decode-0",
        None,
    )
    half = account_of("r", None, events[:4])
    measured = half.attempts[0].plan.chunks[0].measured
    # One member of two has said that it is done.
    assert (measured.end, measured.seconds, len(measured.members)) == (None, None, 1)
    rest = account_of("r", None, events[-2:])
    assert (rest.attempts[0].plan, rest.outcome, rest.arrived) == (None, "length", None)
    waiting = brief_of("r", None, events[:1])
    assert (waiting.arrived, waiting.prompt_tokens, waiting.outcome) == (10.0, 1000, "open")


def test_attempts_are_told_apart() -> None:
    events = [*story("r", 10.0)[:5], *story("r", 20.0, ["prefill-9"], attempt=2)]
    account = account_of("r", None, events)
    assert [attempt.attempt for attempt in account.attempts] == [1, 2]
    assert account.attempts[0].over is None
    assert account.attempts[1].plan.members == ("prefill-9",)
    assert account.attempts[1].plan.chunks[0].measured.seconds is not None
    assert brief_of("r", None, events).attempts == 2


def test_an_own_request_has_its_times_with_their_parts() -> None:
    table = Table()
    table.open()
    plan = story("r", 1_700_000_100.0)[1]
    assert isinstance(plan, Planned)
    table.journeys.planned(plan)
    table.journeys.token(token(0), 100.75)
    table.journeys.began(first(told=times()))
    table.journeys.token(token(1), 101.5)
    table.journeys.joined((joining(),))
    table.journeys.closed("r", "stop", 17, 103.0, 102.7)
    account = account_of("r", table.journeys.get("r"), ())
    assert (account.outcome, account.generated_tokens, account.prompt_tokens) == ("stop", 17, 1000)
    assert account.ttft.measured == 0.75
    assert sum(account.ttft.components.values()) == pytest.approx(0.75)
    assert account.ttft.predicted == pytest.approx(1.0)
    assert account.ttft.skewed is False
    assert account.second_token.measured == 0.75
    assert set(account.second_token.components) == {"transfer", "admit", "step"}
    assert (account.attempts, account.attempts_absent) == (
        [],
        "nothing is known of its attempts (any more)",
    )
    body = msgspec.json.decode(msgspec.json.encode(account))
    assert "explanation" not in body
    assert body["ttft"]["components"]["prefill"] == pytest.approx(0.4)
