import msgspec
import pytest

from common.schedule import Pricing, Schedule, changed, place_of


def test_a_change_replaces_what_it_names_and_nothing_else():
    before = Schedule(policy="fixed-sp:8", improvement_rate=0.3)
    after = changed(before, {"policy": "cdsp-priced", "priced": {"base": 1.0}})
    assert after.policy == "cdsp-priced"
    assert after.priced.base == 1.0
    assert after.priced.per_waiting == before.priced.per_waiting
    assert after.improvement_rate == 0.3
    assert before.policy == "fixed-sp:8"


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
        ({"improvement_rate_mapping": {"1": 1.5}}, "improvement_rate_mapping[...]"),
        ({"priced": {"bse": 1}}, "priced.bse"),
        ({"priced": {"order": "slope:"}}, "priced.order"),
        ({"priced": 3}, "priced"),
        ({"min_chunk": 0}, "min_chunk"),
    ],
)
def test_what_is_out_of_bounds_is_named(change, key):
    with pytest.raises(msgspec.ValidationError) as caught:
        changed(Schedule(), change)
    assert place_of(caught.value)[0] == key


def test_sizes_are_ascending_and_each_there_once():
    assert Schedule(sp_size_candidates=(4, 1, 4, 2)).sizes == (1, 2, 4)


def test_names_carry_their_numbers():
    assert Schedule(policy="fixed-sp:16").fixed_size == 16
    assert Schedule().fixed_size is None
    assert (Pricing(order="slope:3").slope, Pricing(order="slope:3").share) == (3.0, None)
    assert (Pricing(order="tail:0.5").slope, Pricing(order="tail:0.5").share) == (None, 0.5)
    assert changed(Schedule(), {"priced": {"order": "arrival"}}).priced.slope is None
