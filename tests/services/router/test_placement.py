from common.messages import DecodeFacts, Held
from common.pages import Owner
from services.router.placement import Placement, decode_slots

FIRST, SECOND = Owner("r1", 1), Owner("r2", 1)


def placement_of(**totals):
    placement = Placement()
    for name, total in totals.items():
        placement.join(name, total)
    return placement


def test_the_highest_freeness_takes_the_request():
    placement = placement_of(a=1000, b=1000)
    placement.refresh("a", DecodeFacts(1000, 900, 3, 0))
    placement.refresh("b", DecodeFacts(1000, 500, 1, 0))
    assert placement.freeness("a") == 300
    assert placement.freeness("b") == 500
    assert placement.choose(100, {"a", "b"}) == "b"
    # Room comes before freeness, and only usable instances take part.
    assert placement.choose(600, {"a", "b"}) == "a"
    assert placement.choose(100, {"a"}) == "a"
    assert placement.choose(901, {"a", "b"}) is None
    assert placement.largest({"a", "b"}) == 1000


def test_virtual_usage_counts_as_used_until_it_is_admitted_or_dropped():
    placement = placement_of(a=1000)
    placement.book(FIRST, "a", 300)
    placement.book(SECOND, "a", 300)
    assert placement.choose(401, {"a"}) is None
    placement.drop(SECOND, "a")
    assert placement.choose(700, {"a"}) == "a"
    placement.admit(FIRST, "a", 300)
    assert placement.owners == set()
    assert placement.freeness("a") == 700


def test_slots_held_in_fact_are_not_counted_twice():
    placement = placement_of(a=1000)
    placement.book(FIRST, "a", 300)
    placement.refresh("a", DecodeFacts(1000, 700, 0, 0, (Held("r1", 1, 300),)))
    assert placement.freeness("a") == 700
    placement.admit(FIRST, "a", 300)
    assert placement.freeness("a") == 700


def test_a_lost_instance_takes_its_promises_along():
    placement = placement_of(a=1000)
    placement.book(FIRST, "a", 300)
    placement.leave("a")
    placement.drop(FIRST, "a")
    assert placement.owners == set()
    assert placement.largest(set()) == 0
    assert placement.choose(1, {"a"}) is None


def test_decode_reserves_the_prompt_and_a_bounded_output_in_whole_pages():
    assert decode_slots(100, 10, 256) == 112
    assert decode_slots(100, 10_000, 256) == 368


def test_the_carrier_of_an_attempt_is_who_decodes_it():
    placement = placement_of(a=1000, b=1000)
    held = (Held("r1", 1, 300, 1.0, True), Held("r2", 1, 300))
    placement.refresh("b", DecodeFacts(1000, 400, 1, 0, held))
    assert placement.carrier(FIRST) == "b"
    assert placement.carrier(SECOND) is None


def test_what_is_left_takes_promises_into_account():
    placement = placement_of(a=1000, b=500, c=100)
    placement.book(FIRST, "a", 300)
    assert placement.left({"a", "b"}) == {"a": 700, "b": 500}
