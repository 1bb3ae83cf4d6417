import pytest
from msgspec.structs import replace

from common.messages import (
    LOST_MEMBER,
    Chunk,
    ChunkDone,
    DecodeFacts,
    Ending,
    FirstToken,
    Heartbeat,
    Held,
    Hello,
    Member,
    ModelCard,
    Peer,
    PrefillFacts,
    Refused,
    RunChunk,
    Sampling,
    Token,
    TokenBatch,
    Welcome,
)
from tests.simulation.checks import judge
from tests.simulation.histories import DECODE, ROUTER, SENDER, TARGET, codes, sent, took
from tests.simulation.history import ANSWERED, CLIENT, LEFT, Asked, Event, Given, Over

# Tokens

ASKED = took(Asked("r", (7, 8)), CLIENT)
FIRST, SECOND = took(Given("r", 0, 7), CLIENT), took(Given("r", 1, 8), CLIENT)
DONE = took(Over("r", ANSWERED), CLIENT)


def batch(index: int, token: int) -> Event:
    tokens = (Token("r", 1, index, token),)
    return sent(TokenBatch(Peer("decode", 1, "mem://decode"), tokens), DECODE)


def test_an_answer_token_by_token_is_right():
    first = sent(FirstToken(Token("r", 1, 0, 7), Peer("decode", 1, "mem://decode")))
    assert judge([ASKED, first, FIRST, batch(0, 7), batch(1, 8), SECOND, DONE]) == []
    assert judge([ASKED, FIRST, took(Over("r", LEFT), CLIENT)]) == []


@pytest.mark.parametrize(
    "events",
    [
        [ASKED, FIRST, DONE],
        [ASKED, FIRST, FIRST, SECOND, DONE],
        [ASKED, SECOND, FIRST, DONE],
        [ASKED, FIRST, took(Given("r", 1, 9), CLIENT), DONE],
        [ASKED, FIRST, SECOND, batch(1, 9), DONE],
        [ASKED, FIRST, SECOND, batch(2, 9), DONE],
        [ASKED, FIRST, SECOND, DONE, took(Given("r", 2, 9), CLIENT)],
    ],
)
def test_a_missing_repeated_or_wrong_token_is_found(events: list[Event]):
    assert codes(events) == {"I1"}


def test_a_request_without_an_end_or_with_two_is_found():
    assert codes([ASKED, FIRST]) == {"I2"}
    assert codes([ASKED, FIRST, SECOND, DONE, DONE]) == {"I2"}


# Plans and turns

MEMBERS = tuple(Member(name, 1, f"mem://{name}", "ring", "balance") for name in "pq")
RUN = RunChunk(
    epoch=1, seq=5, turn=1, request="a", attempt=1, index=0,
    chunks=(Chunk(0, 10, 1), Chunk(10, 10, 2)), members=MEMBERS, rank=0, target=TARGET,
    gateway=Peer("g", 1, "mem://g"), router=ROUTER, num_emitted=0, reserve=16,
    sampling=Sampling(), ending=Ending(5), predicted=1.0,
)  # fmt: skip
NEXT = replace(RUN, seq=6, turn=2, index=1)


def done(turn: int, seq: int, index: int) -> Event:
    return sent(ChunkDone("p", 1, seq, turn, "a", 1, index, 1.0, 0, 0, 0, 0, 0), SENDER, ROUTER)


def issued(*runs: RunChunk) -> list[Event]:
    return [sent(run, ROUTER) for run in runs]


def test_chunks_run_once_each_in_their_order():
    assert judge([*issued(RUN, NEXT, RUN), done(1, 5, 0), done(2, 6, 1)]) == []


def test_turns_begin_anew_in_another_epoch():
    again = replace(RUN, epoch=2, attempt=2, seq=5)
    later = sent(ChunkDone("p", 1, 5, 1, "a", 2, 0, 1.0, 0, 0, 0, 0, 0), SENDER, ROUTER)
    assert judge([*issued(RUN, NEXT), done(1, 5, 0), done(2, 6, 1), *issued(again), later]) == []


@pytest.mark.parametrize(
    "events",
    [
        [*issued(RUN), done(1, 5, 0), done(1, 5, 0)],
        [*issued(RUN, NEXT), done(2, 6, 1), done(1, 5, 0)],
        [*issued(RUN), done(2, 6, 1)],
        issued(RUN, replace(NEXT, turn=1)),
    ],
)
def test_a_chunk_that_runs_twice_or_out_of_turn_is_found(events: list[Event]):
    assert codes(events) == {"I8"}


def hello(incarnation: int) -> Event:
    peer = Peer("q", incarnation, f"mem://q/{incarnation}")
    return took(Hello("prefill-worker", peer, "node", 2, ModelCard("m", "f", 100)), ROUTER)


def test_a_plan_names_the_living():
    assert judge([hello(1), *issued(RUN), hello(2)]) == []
    assert judge([hello(2), *issued(RUN)]) == []
    refused = sent(Refused(1, LOST_MEMBER), ROUTER, "mem://q/1")
    assert codes([hello(1), refused, *issued(RUN)]) == {"I9"}
    assert codes([hello(1), hello(2), *issued(RUN)]) == {"I9"}


def test_a_router_cannot_know_whom_the_one_before_has_lost():
    refused = sent(Refused(1, LOST_MEMBER), ROUTER, "mem://q/1")
    old, new = (sent(Welcome(epoch, 1), ROUTER, "mem://q/1") for epoch in (1, 2))
    assert judge([old, hello(1), refused, hello(1), new, *issued(RUN)]) == []
    assert codes([old, hello(1), refused, old, *issued(RUN)]) == {"I9"}


@pytest.mark.parametrize(
    "runs",
    [
        [RUN, replace(NEXT, members=MEMBERS[::-1])],
        [replace(RUN, chunks=(Chunk(0, 10, 2), Chunk(10, 10, 1)))],
        [replace(RUN, chunks=(Chunk(0, 10, 1), Chunk(11, 10, 2)))],
        [replace(RUN, members=MEMBERS[:1] * 2)],
    ],
)
def test_a_plan_that_does_not_hold_together_is_found(runs: list[RunChunk]):
    assert codes(issued(*runs)) == {"I9"}


# Slots


def beat(facts: PrefillFacts | DecodeFacts) -> Event:
    return sent(Heartbeat("prefill-worker", "p", 1, facts), SENDER, ROUTER)


def test_slots_that_do_not_add_up_are_found():
    held = (Held("a", 1, 32),)
    assert judge([beat(PrefillFacts(1, 0, 0, 64, 32, held=held))]) == []
    assert codes([beat(PrefillFacts(1, 0, 0, 64, 48, held=held))]) == {"I3"}
    assert codes([beat(DecodeFacts(64, 32, 0, 0))]) == {"I3"}
