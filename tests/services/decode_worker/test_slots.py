import pytest
from hypothesis import settings

from common.errors import OutOfPages
from common.messages import Held
from common.pages import Owner, Span
from services.decode_worker.slots import Slots
from tests.services.decode_worker.slots_machine import SlotsMachine
from tests.services.decode_worker.transfers import commit, layer

A, B = Owner("a", 1), Owner("b", 1)


@pytest.fixture
def slots():
    return Slots(4)


def test_the_first_layer_reserves_and_the_next_ones_find_it(slots):
    assert slots.open(layer(0), 1.0) == [Span(0, 32)]
    assert slots.open(layer(1), 1.0) == [Span(0, 32)]
    assert slots.totals() == (64, 32)
    assert slots.held(3.5) == (Held("a", 1, 32, age=2.5),)
    assert slots.held(3.5, {A}) == (Held("a", 1, 32, age=2.5, admitted=True),)


def test_a_reserve_shorter_than_the_prompt_still_holds_the_prompt(slots):
    assert slots.open(layer(0, prompt_length=40, reserve=1), 1.0) == [Span(0, 48)]


def test_an_ended_attempt_takes_no_more_kv_but_the_next_attempt_does(slots):
    slots.end(A)
    assert slots.open(layer(0), 1.0) is None
    assert slots.open(layer(0, attempt=2), 1.0) is not None


def test_a_request_without_room_takes_nothing_and_may_come_again(slots):
    slots.open(layer(0), 1.0)
    with pytest.raises(OutOfPages):
        slots.open(layer(0, "b", prompt_length=40), 1.0)
    assert slots.totals() == (64, 32)
    assert not slots.ended(B)
    slots.end(A)
    slots.copied()
    assert slots.open(layer(0, "b", prompt_length=40), 1.0) == [Span(0, 48)]


def test_a_reservation_is_what_the_first_layer_finds(slots):
    slots.reserve(A, 28, 1.0)
    slots.reserve(A, 64, 1.0)
    assert slots.totals() == (64, 32)
    assert slots.open(layer(0), 2.0) == [Span(0, 32)]
    assert slots.owners() == [A]
    with pytest.raises(OutOfPages):
        slots.reserve(B, 33, 1.0)


def test_an_ended_attempt_gets_no_reservation(slots):
    slots.end(A)
    slots.reserve(A, 16, 1.0)
    assert slots.owners() == []


def test_slots_that_the_copy_thread_writes_to_go_back_when_it_returns(slots):
    slots.open(layer(0), 1.0)
    slots.end(A)
    assert slots.totals() == (64, 32)
    slots.copied()
    assert slots.totals() == (64, 64)


def test_the_next_layer_ends_the_copy_before_it(slots):
    slots.open(layer(0, reserve=64), 1.0)
    slots.end(A)
    assert slots.open(layer(0, "b", reserve=64), 1.0) == [Span(0, 64)]


def test_slots_of_a_step_under_way_go_back_at_its_end(slots):
    slots.open(layer(0), 1.0)
    slots.copied()
    slots.pin([A])
    slots.end(A)
    assert slots.ended(A) and slots.totals() == (64, 32)
    slots.unpin()
    assert slots.totals() == (64, 64)


def test_growing_beside_is_one_span_and_growing_away_is_two(slots):
    slots.open(layer(0, prompt_length=10, reserve=10), 1.0)
    assert slots.grow(A, 3) == [Span(0, 32)]
    slots.open(layer(0, "b", prompt_length=10, reserve=10), 1.0)
    slots.copied()
    slots.end(B)
    slots.open(layer(0, "c", prompt_length=10, reserve=10), 1.0)
    assert slots.grow(A, 16) == [Span(0, 32), Span(48, 64)]
    with pytest.raises(OutOfPages):
        slots.grow(A, 1)
    assert slots.spans(A) == [Span(0, 32), Span(48, 64)]


def test_layers_are_counted_once_per_transfer(slots):
    for number, rank in [(0, 0), (0, 0), (1, 0), (1, 1)]:
        slots.open(layer(number, rank=rank), 1.0)
    assert [slots.num_layers(commit(rank=rank)) for rank in (0, 1, 2)] == [2, 1, 0]


def test_nothing_is_left_after_everything_ended(slots):
    slots.open(layer(0), 1.0)
    slots.grow(A, 16)
    slots.open(layer(0, "b", prompt_length=5, reserve=5), 1.0)
    slots.copied()
    for owner in (A, B, A):
        slots.end(owner)
    assert slots.totals() == (64, 64) and slots.held(1.0) == ()
    assert slots.num_layers(commit()) == 0


TestSlotsInAnyOrder = SlotsMachine.TestCase
TestSlotsInAnyOrder.settings = settings(max_examples=80, stateful_step_count=50, deadline=None)
