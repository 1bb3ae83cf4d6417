import pytest

from common.messages import ChunkDone
from services.router.busy import Busy


def done(
    name: str = "p", compute: float = 0.0, wait: float = 0.0, gather: float = 0.0
) -> ChunkDone:
    return ChunkDone(name, 1, 1, 1, "r", 1, 0, compute, wait, 0.0, 0.0, 0, 0, gather)


def begun() -> Busy:
    busy = Busy()
    assert busy.shares({"p": 5.0}, 10.0) == {}
    return busy


def test_a_chunk_that_is_done_counts_without_the_wait_for_its_group() -> None:
    busy = begun()
    busy.done(done(compute=0.25, wait=0.75, gather=0.5), 10.75)
    assert busy.shares({}, 11.0) == {"p": 0.5}
    assert busy.shares({}, 12.0) == {}


def test_a_long_chunk_counts_in_every_second_in_which_it_ran_and_only_there() -> None:
    busy = begun()
    assert busy.shares({"p": 10.75}, 11.0) == {"p": 0.25}
    assert busy.shares({"p": 10.75}, 12.0) == {"p": 1.0}
    busy.done(done(compute=1.5), 12.25)
    assert busy.shares({}, 13.0) == {"p": 0.25}


def test_no_moment_counts_twice_whatever_members_say() -> None:
    busy = begun()
    busy.done(done(compute=0.5), 10.5)
    busy.done(done(compute=0.5), 10.75)
    assert busy.shares({"p": 10.0}, 11.0) == {"p": 1.0}
    busy.done(done(compute=1e9), 11.5)
    assert busy.shares({"q": 11.75}, 12.0) == {"p": 0.5, "q": pytest.approx(0.25)}


def test_a_time_that_does_not_pass_has_no_shares() -> None:
    busy = begun()
    busy.done(done(compute=0.5), 10.0)
    assert busy.shares({"p": 9.0}, 10.0) == {}
