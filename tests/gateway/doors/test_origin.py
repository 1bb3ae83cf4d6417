import pytest

from gateway.doors.origin import origin_of

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def test_names_that_a_client_gives_are_kept() -> None:
    origin = origin_of({"x-request-id": "mine-1", "traceparent": PARENT})
    assert (origin.request_id, origin.traceparent) == ("mine-1", PARENT)


@pytest.mark.parametrize("given", ["", "a b", "x" * 129, "ä", "a\n"])
def test_a_name_that_does_not_fit_is_replaced_by_one_of_our_own(given: str) -> None:
    origin = origin_of({"x-request-id": given})
    assert origin.request_id != given
    assert len(origin.request_id) == 32
    assert origin_of({"x-request-id": given}).request_id != origin.request_id


@pytest.mark.parametrize(
    "given",
    ["", PARENT.upper(), PARENT + "-x", "00-" + "0" * 32 + "-b7ad6b7169203331-01", PARENT[:-1]],
)
def test_a_broken_trace_is_no_trace(given: str) -> None:
    assert origin_of({"traceparent": given}).traceparent is None
