from hypothesis import given
from hypothesis import strategies as st

from common.events import Began, Over
from gateway.window.history import BATCH, History
from tests.gateway.happenings import mesh_state, said, story


def began(count: int, request: str = "r") -> list[Began]:
    return [Began(float(i), request, 1, i) for i in range(count)]


def test_events_are_kept_in_order_and_by_request() -> None:
    history = History()
    one, other = story("a", 1.0), story("b", 2.0)
    assert history.take(said(0, *one, *other[:3]), 1.0) == (*one, *other[:3])
    history.take(said(len(one) + 3, *other[3:], mesh_state(3.0)), 2.0)
    assert history.of("a") == tuple(one)
    assert history.of("b") == tuple(other)
    assert history.of("c") == ()
    assert list(history.requests()) == ["b", "a"]
    assert len(history) == len(one) + len(other) + 1
    assert history.nodes["prefill-3"] == "node-1"
    assert history.lost == 0


def test_a_gap_is_counted_and_told_to_who_reads_over_it() -> None:
    history = History()
    history.take(said(10, *began(5)), 1.0)
    history.take(said(18, *began(2)), 2.0)
    assert history.lost == 3
    first = history.read(0)
    assert (first.lost, len(first.events), first.epoch, first.last) == (0, 5, 5, 14)
    second = history.read(first.next)
    assert (second.lost, len(second.events), second.last) == (3, 2, 19)
    assert history.read(second.next).events == []
    assert second.next == history.end


def test_what_comes_again_or_overlaps_is_taken_once() -> None:
    history, events = History(), began(8)
    assert history.take(said(0, *events[:5]), 1.0) == tuple(events[:5])
    assert history.take(said(0, *events[:5]), 1.0) == ()
    assert history.take(said(3, *events[3:]), 1.0) == tuple(events[5:])
    assert history.read(0).events == events
    assert history.lost == 0


def test_another_life_of_the_router_begins_anew_and_the_former_is_not_heard_any_more() -> None:
    history, events = History(), began(9)
    history.take(said(0, *events[:3], epoch=5), 1.0)
    history.take(said(40, *events[3:5], epoch=6), 2.0)
    assert history.take(said(3, *events[5:], epoch=5), 3.0) == ()
    assert history.lost == 0
    first = history.read(0)
    second = history.read(first.next)
    assert (first.epoch, first.last, second.epoch, second.last) == (5, 2, 6, 41)
    assert history.of("r") == tuple(events[:5])


def test_old_and_surplus_events_are_forgotten_with_their_requests() -> None:
    history = History(max_events=10, max_age=60.0)
    history.take(said(0, *began(4, "a")), 0.0)
    history.take(said(4, *began(4, "b")), 50.0)
    history.take(said(8, *began(4, "c")), 55.0)
    assert (history.of("a"), len(history)) == ((), 8)
    history.forget(110.5)
    assert list(history.requests()) == ["c"]
    history.forget(200.0)
    assert (list(history.requests()), len(history)) == ([], 0)
    # Who still wanted the first is told how much it has missed, now or with what comes next.
    nothing = history.read(0)
    assert (nothing.events, nothing.lost, nothing.next) == ([], 12, history.end)
    history.take(said(12, *began(1)), 201.0)
    read = history.read(0)
    assert (read.lost, len(read.events)) == (12, 1)


def test_a_replay_begins_where_it_is_wanted() -> None:
    history = History()
    for second in range(10):
        history.take(said(2 * second, *began(2)), float(second))
    assert history.read(history.since(7.0)).last == 19
    assert len(history.read(history.since(7.0)).events) == 6
    assert history.since(9.5) == history.end
    assert history.since(-5.0) == 0


def test_one_reading_is_bounded() -> None:
    history = History()
    history.take(said(0, *began(1024)), 0.0)
    history.take(said(1024, *began(30)), 0.0)
    first = history.read(0)
    second = history.read(first.next)
    assert (len(first.events), len(second.events)) == (BATCH, 54)
    assert history.read(second.next).events == []


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(1, 40)), max_size=30), st.data())
def test_a_reader_accounts_for_every_event_whatever_is_lost_or_forgotten(
    messages: list[tuple[int, int]], data: st.DataObject
) -> None:
    history, number, position, seen = History(max_events=50), 0, 0, 0
    for gap, count in messages:
        number += gap if number else 0
        history.take(said(number, *began(count)), 0.0)
        number += count
        assert len(history) <= 50
        while data.draw(st.booleans()) and (read := history.read(position)).events:
            seen += read.lost + len(read.events)
            position = read.next
    while history.end > position and (read := history.read(position)).events:
        seen += read.lost + len(read.events)
        position = read.next
    assert seen == number
    assert len(history.of("r")) == len(history)


def test_an_end_without_a_beginning_is_remembered_too() -> None:
    history = History()
    over = Over(1.0, "x", 3, "failed", 0)
    history.take(said(7, over), 1.0)
    assert history.of("x") == (over,)
