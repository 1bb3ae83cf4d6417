import pytest

from common.events import Over, Planned, Waits
from common.messages import Cancel, ChunkDone, EndOfRequest, Events, Failed, Rejected
from common.pages import Owner
from common.wire import CONTROL, MAX_HEADER
from services.router.plan import Plan, Policy, PoolView
from services.router.recorder import MAX_EVENTS, MAX_KEPT, Recorder
from services.router.requests import Request
from services.router.wall import Wall
from tests.services.prefill_worker.plans import plan
from tests.services.router.mesh import GATEWAY

OWNER = Owner("r", 1)


def recorder_at(offset: float = 100.0) -> Recorder:
    wall = Wall()
    wall.offset = offset
    return Recorder(7, wall)


def events_of(recorder: Recorder) -> list:
    return [event for message in recorder.take() for event in message.events]


def test_what_was_told_is_told_once_and_numbers_go_on() -> None:
    recorder = recorder_at()
    assert list(recorder.take()) == []
    recorder.waits(OWNER, 9, None, 1.0)
    recorder.waits(Owner("s", 2), 8, 0.5, 2.0)
    two = (Waits(101.0, "r", 1, 9, None), Waits(102.0, "s", 2, 8, 0.5))
    assert list(recorder.take()) == [Events(7, 0, two)]
    assert list(recorder.take()) == []
    recorder.over(OWNER, Cancel(*OWNER), 3.0)
    assert list(recorder.take()) == [Events(7, 2, (Over(103.0, "r", 1, "cancel", 0),))]


def test_what_nobody_takes_is_forgotten_and_leaves_a_gap() -> None:
    recorder = recorder_at()
    for number in range(MAX_KEPT + 3):
        recorder.waits(OWNER, number, None, 1.0)
    messages = list(recorder.take())
    assert messages[0].first == 3
    assert messages[0].events[0].length == 3
    assert sum(len(message.events) for message in messages) == MAX_KEPT
    recorder.waits(OWNER, 1, None, 1.0)
    assert [message.first for message in recorder.take()] == [MAX_KEPT + 3]


def test_many_events_are_several_messages_without_a_gap_between_them() -> None:
    recorder = recorder_at()
    for number in range(2 * MAX_EVENTS + 5):
        recorder.waits(OWNER, number, None, 1.0)
    messages = list(recorder.take())
    assert [(one.first, len(one.events)) for one in messages] == [
        (0, MAX_EVENTS),
        (MAX_EVENTS, MAX_EVENTS),
        (2 * MAX_EVENTS, 5),
    ]


def test_large_plans_are_split_by_their_size_so_that_every_message_can_travel() -> None:
    recorder = recorder_at()
    names = tuple(f"{index:064d}" for index in range(1024))
    request = planned_request(names, ((10, 1024),) * 64)
    for _ in range(40):
        recorder.planned(request, 1.0)
    messages = list(recorder.take())
    assert 1 < len(messages) < 40
    number = 0
    for message in messages:
        frames = CONTROL.encode(message)
        assert len(frames[0]) < 0.75 * MAX_HEADER
        assert CONTROL.decode(frames) == (message, ())
        assert message.first == number
        number += len(message.events)
    assert number == 40


def planned_request(names: tuple[str, ...], parts: tuple[tuple[int, int], ...], **changes: object):
    chunks = tuple(plan(*parts))
    view = PoolView(names, ("n",) * len(names), (0.5,) * len(names))
    made = Plan(
        chunks=chunks,
        members=names,
        predicted=(2.0,) * len(chunks),
        ttft=0.5 + 2.0 * len(chunks),
        view=view,
        policy=Policy((1, 2), 0.25, 1),
        wait=0.5,
        **changes,
    )
    return Request(OWNER, GATEWAY, plan=made, decode="d", arrived=0.5)


def test_a_plan_is_told_with_the_moments_at_which_its_chunks_should_start() -> None:
    recorder = recorder_at()
    recorder.planned(planned_request(("a", "b"), ((3, 1), (5, 2))), 1.0, 4.25)
    [event] = events_of(recorder)
    assert isinstance(event, Planned)
    assert (event.at, event.arrived, event.ttft, event.shadow) == (101.0, 100.5, 4.5, 4.25)
    assert (event.length, event.members, event.decode) == (8, ("a", "b"), "d")
    assert (event.policy, event.rate) == ("cdsp", 0.25)
    assert [(one.length, one.size, one.start, one.seconds) for one in event.chunks] == [
        (3, 1, 101.5, 2.0),
        (5, 2, 103.5, 2.0),
    ]


@pytest.mark.parametrize(
    ("changes", "policy"),
    [({"forced": "1,2"}, "forced"), ({}, "cdsp")],
)
def test_a_demanded_plan_is_told_as_such(changes: dict, policy: str) -> None:
    recorder = recorder_at()
    recorder.planned(planned_request(("a", "b"), ((3, 1), (5, 2)), **changes), 1.0)
    [event] = events_of(recorder)
    assert event.policy == policy


def test_waiting_inside_the_ring_is_told_without_what_was_waited_for_the_group() -> None:
    recorder = recorder_at()
    done = ChunkDone("p", 1, 4, 2, "r", 1, 3, 1.0, 0.75, 0.25, 0.125, 0, 0, gather=0.5)
    recorder.computed(done, 2.0)
    [event] = events_of(recorder)
    assert (event.at, event.member, event.index) == (102.0, "p", 3)
    assert (event.gather, event.balance, event.compute) == (0.5, 0.25, 1.0)
    assert (event.wait, event.send) == (0.25, 0.125)


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        (EndOfRequest("r", 1, 12, "length"), ("length", 12)),
        (EndOfRequest("r", 1, 0, "abort"), ("abort", 0)),
        (Failed("r", 1, "decode", "no room", retryable=True), ("failed", 0)),
        (Cancel("r", 1), ("cancel", 0)),
        (Rejected("r", 1, 503, "nobody is there"), ("error", 0)),
    ],
)
def test_every_end_has_its_word(how, expected) -> None:
    recorder = recorder_at()
    recorder.over(OWNER, how, 1.0)
    [event] = events_of(recorder)
    assert (event.how, event.num_tokens) == expected
