import resource

import pytest

from gateway.doors import connections
from gateway.doors.connections import Limits, Places, make_room


def test_places_are_counted_over_all_and_by_host() -> None:
    places = Places(Limits(connections=3, per_host=2, head=10.0))
    assert [places.take("a"), places.take("a"), places.take("a")] == [True, True, False]
    assert [places.take("b"), places.take("c")] == [True, False]
    places.leave("a")
    assert [places.take("c"), places.take("a")] == [True, False]


def test_hosts_that_have_gone_leave_nothing_behind() -> None:
    places = Places(Limits(connections=10, per_host=1, head=10.0))
    for number in range(1000):
        assert places.take(f"host-{number}")
        assert not places.take(f"host-{number}")
        places.leave(f"host-{number}")
    assert not places._taken


@pytest.mark.parametrize(
    ("soft", "hard", "connections_wanted", "expected"),
    [
        (1024, 65536, 1024, (2048, 65536)),
        (1024, 1500, 1024, (1500, 1500)),
        (65536, 65536, 1024, None),
        (resource.RLIM_INFINITY, resource.RLIM_INFINITY, 1024, None),
        (1024, resource.RLIM_INFINITY, 4096, (5120, resource.RLIM_INFINITY)),
    ],
)
def test_there_are_descriptors_for_all_connections_where_the_system_gives_them(
    monkeypatch: pytest.MonkeyPatch,
    soft: int,
    hard: int,
    connections_wanted: int,
    expected: tuple[int, int] | None,
) -> None:
    given: list[tuple[int, int]] = []
    monkeypatch.setattr(connections.resource, "getrlimit", lambda _: (soft, hard))
    monkeypatch.setattr(connections.resource, "setrlimit", lambda _, pair: given.append(pair))
    make_room(connections_wanted)
    assert given == ([] if expected is None else [expected])
