import pytest

from common.messages import Chunk, ChunkTimes, Times
from common.sharding import owner_of_last
from services.prefill_worker.hands import ChunkResult, Moments
from services.prefill_worker.stamps import Stamps
from tests.services.prefill_worker.plans import plan, run_chunk

RUN = run_chunk(plan((8, 1), (8, 1)), 1, 0, received=1.0, planned=2.0)


class SetClock:
    """Monotonic seconds and a wall clock that somebody sets."""

    offset = 100.0

    def now(self) -> float:
        return 4.0

    def wall(self) -> float:
        return 4.0 + self.offset


def done(*moments: float) -> ChunkResult:
    return ChunkResult(None, 1.0, 0.0, 0.0, 0.5, Moments(*moments))


def test_clocks_are_compared_once_so_that_setting_one_does_not_mix_the_order() -> None:
    clock = SetClock()
    stamps = Stamps(clock)
    clock.offset = 50.0
    stamps.arrive(1, 4.5)
    stamps.arrive(0, 4.0)
    stamps.arrive(0, 9.0)
    stamps.done(0, done(5.0, 5.5, 6.0, 6.0))
    stamps.done(1, done(7.0, 7.0, 8.0, 8.25))
    assert stamps.times(RUN) == Times(
        received=1.0,
        planned=2.0,
        chunks=(
            ChunkTimes(104.0, 105.0, 105.5, 106.0, 0.5),
            ChunkTimes(104.5, 107.0, 107.0, 108.0, 0.5),
        ),
        sampled=108.25,
    )


def test_a_chunk_that_was_not_run_here_is_left_out() -> None:
    stamps = Stamps(SetClock())
    stamps.arrive(0, 4.0)
    stamps.arrive(1, 4.0)
    stamps.done(1, done(7.0, 7.0, 8.0, 8.0))
    assert stamps.times(RUN).chunks == (ChunkTimes(104.0, 107.0, 107.0, 108.0, 0.5),)


@pytest.mark.parametrize("size", [1, 2, 3, 8])
@pytest.mark.parametrize("length", [1, 2, 7, 16, 1000])
def test_the_owner_of_the_last_token_is_the_member_that_runs_all_chunks(
    size: int, length: int
) -> None:
    assert owner_of_last(Chunk(5, length, size)) == 0
