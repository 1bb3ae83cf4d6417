import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.doors.weight import OPENING, weight


def count(value: object) -> int:
    """The same by walking through the value."""
    if not isinstance(value, list | dict):
        return 0
    parts = list(value.values()) if isinstance(value, dict) else value
    return OPENING + max(0, len(parts) - 1) + sum(count(part) for part in parts)


VALUES = st.recursive(
    st.none() | st.integers() | st.text(alphabet='a,"\\[{é') | st.booleans(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(alphabet='a,"\\[{'), inner),
)


@given(VALUES, st.integers(1, 20))
def test_slices_change_nothing(value: object, size: int) -> None:
    body = json.dumps(value).encode()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("gateway.doors.weight.SLICE", size)
        assert weight(body) == count(value)


@given(VALUES)
def test_it_counts_what_is_outside_strings(value: object) -> None:
    assert weight(json.dumps(value).encode()) == count(value)
    assert weight(json.dumps(value, ensure_ascii=False).encode()) == count(value)


@pytest.mark.parametrize("body", [b"", b'"', b"\\", b'"\\', b"[" * 10, b"\xff,\x00"])
def test_what_is_no_json_has_a_weight_too(body: bytes) -> None:
    assert weight(body) == OPENING * body.count(b"[") + body.count(b",")
