import pytest

from gateway.window.spans import Span, span_of
from tests.gateway.happenings import story
from tests.gateway.window.test_journeys import WALL, Table, first, joining, times, token


def journey(table: Table, outcome: str = "length"):
    table.open()
    table.journeys.token(token(0), 100.75)
    table.journeys.began(first(told=times()))
    table.journeys.token(token(1), 101.5)
    table.journeys.joined((joining(),))
    table.journeys.closed("r", outcome, 30, 103.0, 102.7)
    return table.journeys.get("r")


def test_a_request_is_a_span_with_its_chunks_hand_over_and_decoding_inside() -> None:
    root = span_of(journey(Table()), story("r", WALL + 100))
    assert (root.name, root.start, root.end) == ("request", WALL + 100, WALL + 103)
    assert root.attributes["tetris.outcome"] == "length"
    assert root.attributes["tetris.ttft"] == 0.75
    assert root.attributes["tetris.ttft.prefill"] == pytest.approx(0.4)
    assert not root.failed
    one, two, transfer, decode = root.children
    assert (one.name, one.attributes["tetris.chunk"], one.children) == ("chunk", "1/2", [])
    assert two.attributes["tetris.members"] == "prefill-0,prefill-1,prefill-2,prefill-3"
    (balance,) = two.children
    assert balance.end - balance.start == pytest.approx(0.1, abs=1e-5)
    assert two.start == balance.start
    assert (transfer.name, decode.name) == ("transfer", "decode")
    assert transfer.start == pytest.approx(two.end)
    assert transfer.end == decode.start
    assert decode.end == WALL + 102.5
    assert lasting([root])


def lasting(spans: list[Span]) -> bool:
    return all(span.end >= span.start and lasting(list(span.children)) for span in spans)


def test_what_is_not_known_has_no_span() -> None:
    assert span_of(journey(Table()), ()).children == []
    events = story("r", WALL + 100)
    names = [span.name for span in span_of(journey(Table()), events[:5]).children]
    assert names == ["chunk"]


def test_a_failed_request_is_a_failed_span() -> None:
    assert span_of(journey(Table(), "error"), ()).failed
