from typing import get_args

import msgspec
import pytest

from common.events import Computed, Happening, MeshState, Planned
from common.messages import Events
from common.wire import CONTROL

STATE = MeshState(1.0, "cdsp", 0.1, None, 0, 0, (), (), ())


def test_every_happening_has_a_name_of_its_own_and_a_moment() -> None:
    kinds = get_args(Happening)
    assert len({kind.__struct_config__.tag for kind in kinds}) == len(kinds) == 8
    for kind in kinds:
        assert kind.__struct_fields__[0] == "at"


@pytest.mark.parametrize(
    ("change", "place"),
    [
        ({"at": -1.0}, "at"),
        ({"at": 1e13}, "at"),
        ({"rate": 1.0}, "rate"),
        ({"prefill": [{"name": "p"}]}, "prefill"),
        (
            {
                "prefill": [
                    {"name": "p", "node": "n", "delay": 0.0, "used": 0, "total": 1, "busy": 1.1}
                ]
            },
            "busy",
        ),
        ({"more": 1}, "more"),
    ],
)
def test_an_event_out_of_bounds_is_refused_with_its_field(change: dict, place: str) -> None:
    tree = msgspec.to_builtins(STATE)
    assert msgspec.convert(tree, Happening) == STATE
    with pytest.raises(msgspec.ValidationError, match=place):
        msgspec.convert(tree | change, Happening)


def test_events_of_several_kinds_travel_in_one_message() -> None:
    computed = Computed(2.0, "r", 1, 0, "p", 0.0, 0.0, 1.0, 0.0, 0.0)
    planned = Planned(1.5, "r", 1, 1.0, 8, ("p",), (), "d", 0.5, "cdsp", 0.1, shadow=0.75)
    events = Events(7, 3, (STATE, planned, computed))
    assert CONTROL.decode(CONTROL.encode(events)) == (events, ())
