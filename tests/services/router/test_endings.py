import pytest

from common.messages import Cancel, EndOfRequest, Failed, Rejected
from common.pages import Owner
from services.router.endings import MAX_ENDED, Endings, end_of

OWNER = Owner("r", 2)


@pytest.mark.parametrize(
    ("how", "num_tokens", "reason"),
    [
        (EndOfRequest("r", 2, 7, "stop", "in-d"), 7, "stop"),
        (Failed("r", 2, "what", "why", True), 0, "error"),
        (Rejected("r", 2, 503, "why"), 0, "abort"),
        (Cancel("r", 2), 0, "abort"),
        (None, 0, "abort"),
    ],
)
def test_members_are_told_the_end_in_one_way(how, num_tokens, reason):
    assert end_of(OWNER, how) == EndOfRequest("r", 2, num_tokens, reason)


def test_the_first_end_counts_and_the_oldest_is_forgotten():
    endings = Endings()
    endings.add(OWNER, Cancel("r", 2), 5)
    endings.add(OWNER, Rejected("r", 2, 503, "why"), None)
    assert OWNER in endings
    assert (endings.how(OWNER), endings.place(OWNER)) == (Cancel("r", 2), 5)
    for index in range(MAX_ENDED):
        endings.add(Owner("other", index), Cancel("other", 1), None)
    assert OWNER not in endings
    assert (endings.how(OWNER), endings.place(OWNER)) == (None, None)
