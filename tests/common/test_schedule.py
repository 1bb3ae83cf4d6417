import msgspec
import pytest
from msgspec import UNSET

from common.schedule import (
    Pricing,
    PricingChange,
    Schedule,
    ScheduleChange,
    change_of,
    changed,
    in_words,
    place_of,
)


def test_a_change_replaces_what_it_names_and_nothing_else():
    before = Schedule(policy="fixed-sp:8", improvement_rate=0.3)
    after = changed(before, change_of({"policy": "cdsp-priced", "priced": {"base": 1.0}}))
    assert after.policy == "cdsp-priced"
    assert after.priced.base == 1.0
    assert after.priced.per_waiting == before.priced.per_waiting
    assert after.improvement_rate == 0.3
    assert before.policy == "fixed-sp:8"
    assert changed(after, ScheduleChange()) == after
    assert changed(after, change_of(msgspec.to_builtins(before))) == before


def test_every_key_of_a_schedule_can_be_changed_and_none_has_to_be():
    for whole, change in ((Schedule, ScheduleChange), (Pricing, PricingChange)):
        assert change.__struct_fields__ == whole.__struct_fields__
        assert set(change.__struct_defaults__) == {UNSET}


def test_a_mapping_is_replaced_as_a_whole():
    before = Schedule(improvement_rate_mapping={"1": 0.1, "2": 0.2})
    after = changed(before, change_of({"improvement_rate_mapping": {"0.5": 0.1}}))
    assert after.improvement_rate_mapping == {"0.5": 0.1}
    assert (
        changed(after, change_of({"improvement_rate_mapping": {}})).improvement_rate_mapping == {}
    )


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"policy": "best"}, "policy"),
        ({"policy": "fixed-sp:0"}, "policy"),
        ({"polcy": "cdsp"}, "polcy"),
        ({"improvement_rate": 1.0}, "improvement_rate"),
        ({"improvement_rate": True}, "improvement_rate"),
        ({"sp_size_candidates": []}, "sp_size_candidates"),
        ({"sp_size_candidates": [1, 0]}, "sp_size_candidates[1]"),
        ({"improvement_rate_update_period": 0}, "improvement_rate_update_period"),
        ({"improvement_rate_mapping": {"0.5": 0.1, "1": 1.5}}, "improvement_rate_mapping.1"),
        ({"improvement_rate_mapping": {"0.5": "a"}}, "improvement_rate_mapping.0.5"),
        ({"improvement_rate_mapping": {"-1": 0.5}}, "improvement_rate_mapping.-1"),
        ({"improvement_rate_mapping": {"1": 0.1, "1.0": 0.1}}, "improvement_rate_mapping.1.0"),
        ({"improvement_rate_mapping": {"1": 0.1, "01": 0.2}}, "improvement_rate_mapping.01"),
        (
            {"improvement_rate_mapping": dict.fromkeys(map(str, range(65)), 0.1)},
            "improvement_rate_mapping",
        ),
        ({"improvement_rate_mapping": None}, "improvement_rate_mapping"),
        ({"improvement_rate": float("nan")}, "improvement_rate"),
        ({"policy": "cdsp\n"}, "policy"),
        ({"policy": None}, "policy"),
        ({"sp_size_candidates": [1] * 65}, "sp_size_candidates"),
        ({"sp_size_candidates": [1025]}, "sp_size_candidates[0]"),
        ({"priced": {"bse": 1}}, "priced.bse"),
        ({"priced": {"order": "slope:"}}, "priced.order"),
        ({"priced": 3}, "priced"),
        ({"priced": {"order": "slope:1\n"}}, "priced.order"),
        ({"priced": {"base": -1}}, "priced.base"),
        ({"min_chunk": 0}, "min_chunk"),
        ({"min_chunk": 2.5}, "min_chunk"),
        ([], ""),
        (None, ""),
    ],
)
def test_what_is_out_of_bounds_is_named(change, key):
    with pytest.raises(msgspec.ValidationError) as caught:
        change_of(change)
    assert place_of(caught.value)[0] == key


def test_patterns_are_put_into_words():
    for change, key, what in (
        ({"policy": "best"}, "policy", "expected one of cdsp, cdsp-priced, single-chunk"),
        ({"priced": {"order": "x"}}, "priced.order", "expected arrival, slope:K or tail:X"),
        ({"improvement_rate_mapping": {"x": 0.1}}, "improvement_rate_mapping.x",
         "Expected requests per second"),
        ({"min_chunk": 0}, "min_chunk", "Expected `int` >= 1"),
    ):  # fmt: skip
        with pytest.raises(msgspec.ValidationError) as caught:
            change_of(change)
        assert in_words(caught.value)[0] == key
        assert in_words(caught.value)[1].startswith(what)


def test_two_names_of_one_load_are_refused_in_a_preset_too():
    tree = {"schedule": {"improvement_rate_mapping": {"1": 0.1, "1.0": 0.2}}}
    with pytest.raises(msgspec.ValidationError) as caught:
        msgspec.convert(tree, dict[str, Schedule])
    assert place_of(caught.value)[0].endswith("improvement_rate_mapping.1.0")


def test_sizes_are_ascending_and_each_there_once():
    assert Schedule(sp_size_candidates=(4, 1, 4, 2)).sizes == (1, 2, 4)


def test_names_carry_their_numbers():
    assert Schedule(policy="fixed-sp:16").fixed_size == 16
    assert Schedule().fixed_size is None
    assert (Pricing(order="slope:3").slope, Pricing(order="slope:3").share) == (3.0, None)
    assert (Pricing(order="tail:0.5").slope, Pricing(order="tail:0.5").share) == (None, 0.5)
    assert Pricing(order="arrival").slope is None


@pytest.mark.parametrize("period", [5e-324, 1e-300, 0.0009])
def test_a_period_that_cannot_be_counted_in_is_refused(period):
    with pytest.raises(msgspec.ValidationError, match="improvement_rate_update_period"):
        change_of({"improvement_rate_update_period": period})


def test_huge_mappings_and_loads_are_refused_without_repeating_them():
    for mapping in ({str(load): 0.1 for load in range(100_000)}, {"9" * 100_000: 0.1}):
        with pytest.raises(msgspec.ValidationError) as refused:
            change_of({"improvement_rate_mapping": mapping})
        assert len(str(refused.value)) < 200
