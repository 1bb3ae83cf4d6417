import pytest

from common.errors import Aborted
from common.messages import RingAbort
from common.pages import Owner
from services.prefill_worker.aborts import Aborts
from tests.services.prefill_worker.plans import plan, run_chunk

RUN = run_chunk(plan((8, 1), (8, 2)), 1, 0)
"""Of rank 0; rank 1 is incarnation 2."""


def begun() -> Aborts:
    aborts = Aborts()
    aborts.begin(RUN)
    return aborts


def test_an_attempt_that_ended_here_is_over_for_good() -> None:
    aborts = begun()
    aborts.end(Owner("r", 2))
    aborts.check()
    aborts.end(Owner("r", 1))
    for _ in range(2):
        with pytest.raises(Aborted):
            aborts.check()
        aborts.begin(RUN)
    aborts.begin(run_chunk(plan((8, 1)), 0, 0, attempt=3))
    aborts.check()


def test_only_a_life_that_stands_in_the_plan_can_leave_it() -> None:
    aborts = begun()
    for rank, incarnation in ((1, 1), (1, 3), (0, 1), (2, 2)):
        aborts.note(RingAbort("r", 1, rank, incarnation))
        aborts.check()
    aborts.note(RingAbort("r", 1, 1, 2))
    with pytest.raises(Aborted, match="rank 1"):
        aborts.check()


def test_a_departure_may_come_before_the_chunk() -> None:
    aborts = Aborts()
    aborts.note(RingAbort("r", 1, 1, 2))
    aborts.check()
    aborts.begin(RUN)
    with pytest.raises(Aborted):
        aborts.check()


def test_a_member_that_ends_computes_nothing_more() -> None:
    aborts = begun()
    aborts.check()
    aborts.stop()
    with pytest.raises(Aborted, match="this member ends"):
        aborts.check()
