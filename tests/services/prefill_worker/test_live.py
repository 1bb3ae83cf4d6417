from common.clock import MonotonicClock
from common.messages import Held
from services.prefill_worker.live import Live
from services.prefill_worker.stamps import Stamps
from tests.services.prefill_worker.plans import plan, run_chunk

HELD = Held("r", 1, 16)


def test_what_is_held_is_as_old_as_its_first_slots() -> None:
    live = Live(run_chunk(plan((8, 1)), 0, 0), Stamps(MonotonicClock()))
    assert live.aged(HELD, 5.0) == HELD
    live.born = 2.0
    assert live.aged(HELD, 5.0) == Held("r", 1, 16, age=3.0)
    assert live.aged(HELD, 1.0) == HELD
