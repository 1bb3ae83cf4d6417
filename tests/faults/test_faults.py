"""A few rows of the fault suite, on one small mesh; `make test-faults` runs all of them."""

from collections.abc import Iterator

import pytest

from tests.faults.arena import Arena, arena
from tests.faults.catalogue import ROWS
from tests.faults.suite import attempt

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

CHOSEN = ("F2", "F9-only", "F11", "F24-decode")


@pytest.fixture(scope="module")
def own() -> Iterator[Arena]:
    with arena(3, 1) as made:
        yield made


@pytest.mark.parametrize("name", CHOSEN)
def test_nothing_is_lost(own: Arena, name: str) -> None:
    row = next(row for row in ROWS if row.name == name)
    result = attempt(own, row, seed=1, sampling=row.seeds[-1])
    assert result.passed, result.why
