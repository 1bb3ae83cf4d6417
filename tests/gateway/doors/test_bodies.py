import pytest

from gateway.doors.bodies import unambiguous
from gateway.errors import Refusal


def test_a_body_is_its_value() -> None:
    assert unambiguous(b'{"a": {"b": 1}, "c": {"b": [1.5, null]}}') == {
        "a": {"b": 1},
        "c": {"b": [1.5, None]},
    }


@pytest.mark.parametrize(
    ("body", "key"),
    [
        (b'{"a": 1, "a": 1}', "a"),
        (b'[{"x": {"b": 1, "\\u0062": 2}}]', "b"),
        (b'{"a": NaN}', None),
        (b"1e999", None),
        (b"9" * 5000, None),
        (b"[" * 100_000, None),
        (b'"\\ud800"', None),
        (b"{} {}", None),
        ("{}".encode("utf-16"), None),
        (b"", None),
    ],
)
def test_what_is_no_json_or_names_a_key_twice_is_refused(body: bytes, key: str | None) -> None:
    with pytest.raises(Refusal) as refused:
        unambiguous(body)
    assert (refused.value.status, refused.value.param) == (400, key)
