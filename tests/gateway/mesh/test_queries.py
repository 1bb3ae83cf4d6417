import pytest
from aiohttp.test_utils import make_mocked_request

from gateway.errors import Refusal
from gateway.mesh.queries import number


@pytest.mark.parametrize(
    ("query", "value"), [("", 60.0), ("?seconds=0", 0.0), ("?seconds=2.5", 2.5), ("?x=1", 60.0)]
)
def test_a_number_is_taken_or_its_default(query: str, value: float) -> None:
    assert number(make_mocked_request("GET", "/" + query), "seconds", 60.0, 0.0, 600.0) == value


@pytest.mark.parametrize("given", ["", "-1", "601", "nan", "inf", "x", "1" * 17, "1,5", "%00"])
def test_anything_else_is_refused_naming_it(given: str) -> None:
    http = make_mocked_request("GET", f"/?seconds={given}")
    with pytest.raises(Refusal) as refused:
        number(http, "seconds", 60.0, 0.0, 600.0)
    assert (refused.value.status, refused.value.param) == (400, "seconds")
