from typing import Any

import pytest
from msgspec.structs import replace

from common.messages import (
    Cancel,
    Chunk,
    Ending,
    EndOfRequest,
    Failed,
    KvAck,
    KvCommit,
    Member,
    Peer,
    Released,
    RunChunk,
    Sampling,
    Submit,
    Target,
    Welcome,
)
from tests.simulation.attempts import Handover, Numbering
from tests.simulation.checks import Check
from tests.simulation.history import Event

GATEWAY, PREFILL, ROUTER = "mem://gateway", "mem://p", "mem://router"
LINK, DECODE = "emulated://p/1/kv", "emulated://decode"
NUM_LAYERS = 3


def took(message: Any, where: str) -> Event:
    return Event(0.0, where, "took", message)


def sent(message: Any, where: str, to: str = ROUTER) -> Event:
    return Event(0.0, where, "sent", message, to)


def found(check: Check, *events: Event) -> str:
    lines = [line for event in events for line in check.take(event)]
    return " ".join([*lines, *check.end()])


# Numbering


def submit(attempt: int, num_tokens: int = 8, num_emitted: int = 0) -> Event:
    peer = Peer("gateway", 1, GATEWAY)
    message = Submit("a", attempt, peer, num_tokens, num_emitted, Sampling(), Ending(max_tokens=4))
    return sent(message, GATEWAY)


FAILED = Failed("a", 1, "decode", "lost", retryable=True)


def test_attempts_are_repeated_until_they_are_over_and_then_have_the_next_number():
    late = took(FAILED, GATEWAY)
    events = [submit(1), submit(1), late, submit(2, 9, 1), late, submit(2, 9, 1)]
    assert found(Numbering(), *events) == ""


@pytest.mark.parametrize("end", [FAILED, EndOfRequest("a", 1, 0, "error")])
def test_an_attempt_that_is_submitted_after_its_end_is_found(end: Failed | EndOfRequest):
    assert "I8" in found(Numbering(), submit(1), took(end, GATEWAY), submit(1))
    assert found(Numbering(), submit(1), took(end, "mem://another"), submit(1)) == ""


def test_an_attempt_with_two_prompts_is_found():
    assert "I8" in found(Numbering(), submit(1), submit(1, 9, 1))


# Handover


TARGET = Target("decode", 1, "mem://decode", DECODE, 2, "mem://broker")
MEMBERS = (Member("p", 1, PREFILL, "emulated://p/1/ring", "emulated://p/1/balance"),)
RUN = RunChunk(
    epoch=1,
    seq=1,
    turn=1,
    request="a",
    attempt=1,
    index=0,
    chunks=(Chunk(0, 8, 1), Chunk(8, 8, 1)),
    members=MEMBERS,
    rank=0,
    target=TARGET,
    gateway=Peer("gateway", 1, GATEWAY),
    router=ROUTER,
    sampling=Sampling(),
    ending=Ending(max_tokens=4),
    reserve=32,
    num_emitted=0,
    predicted=1.0,
)
RELEASED = sent(Released("p", 1, "a", 1), PREFILL)


def commit(chunk: int) -> Event:
    message = KvCommit(
        *("a", 1, chunk, 0, 0, 1, 2, NUM_LAYERS, 8, 16, 32),
        broker="mem://broker",
        reply=LINK,
        incarnation=1,
    )
    return sent(message, LINK, DECODE)


def ack(chunk: int, layer: int = NUM_LAYERS) -> Event:
    return took(KvAck("a", 1, chunk, 0, layer, 1), LINK)


THROUGH = [took(RUN, PREFILL), commit(0), ack(0), commit(1), ack(1)]


def test_kv_goes_when_decode_has_acknowledged_every_commit():
    assert found(Handover(), *THROUGH, RELEASED) == ""


@pytest.mark.parametrize(
    "events",
    [
        THROUGH[:1],
        THROUGH[:3],
        THROUGH[:4],
        [*THROUGH[:4], ack(1, layer=0)],
        [*THROUGH[:3], ack(1)],
    ],
)
def test_kv_that_goes_before_its_commit_is_acknowledged_is_found(events: list[Event]):
    assert "I3" in found(Handover(), *events, RELEASED)


@pytest.mark.parametrize(
    "end",
    [
        took(EndOfRequest("a", 1, 0, "error"), PREFILL),
        took(Cancel("a", 1), PREFILL),
        sent(replace(FAILED, sender=PREFILL), PREFILL),
        took(Welcome(2, 1), PREFILL),
        took(replace(RUN, epoch=2), PREFILL),
    ],
)
def test_kv_of_what_is_over_may_go_at_once(end: Event):
    assert found(Handover(), *THROUGH[:3], end, RELEASED) == ""


@pytest.mark.parametrize(
    "event",
    [
        took(EndOfRequest("a", 2, 0, "error"), PREFILL),
        took(EndOfRequest("a", 1, 0, "error"), "mem://another"),
        took(Welcome(1, 1), PREFILL),
        took(RUN, PREFILL),
    ],
)
def test_what_is_no_end_here_is_no_excuse(event: Event):
    assert "I3" in found(Handover(), *THROUGH[:3], event, RELEASED)
