import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.messages import Chunk
from common.pages import Owner
from services.router.plan import Plan, Policy, PoolView
from services.router.pool import Pool

EMPTY = PoolView((), (), ())


def plan_of(members, *chunks):
    """Chunks as (size, seconds)."""
    return Plan(
        chunks=tuple(Chunk(100 * i, 100, size) for i, (size, _) in enumerate(chunks)),
        members=tuple(members),
        predicted=tuple(float(seconds) for _, seconds in chunks),
        ttft=0.0,
        view=EMPTY,
        policy=Policy((1,), 0.0, 1),
    )


def pool_of(count):
    pool = Pool()
    for index in range(count):
        pool.join(f"p{index}", f"n{index // 2}")
    return pool


def owner(number):
    return Owner(f"r{number}", 1)


def test_a_chunk_delays_its_group_and_nobody_else():
    pool = pool_of(3)
    pool.commit(owner(1), plan_of(["p0", "p2"], (2, 1.5)))
    assert pool.delays(10.0) == {"p0": 1.5, "p1": 0.0, "p2": 1.5}
    assert pool.view(10.0) == PoolView(("p0", "p1", "p2"), ("n0", "n0", "n1"), (1.5, 0.0, 1.5))


def test_a_later_chunk_waits_for_its_busiest_member():
    pool = pool_of(2)
    pool.commit(owner(1), plan_of(["p0"], (1, 3)))
    pool.commit(owner(2), plan_of(["p1", "p0"], (1, 1), (2, 2)))
    assert pool.delays(0.0) == {"p0": 5.0, "p1": 5.0}


def test_turns_have_no_gaps_and_seq_grows_over_all():
    pool = pool_of(2)
    first = pool.commit(owner(1), plan_of(["p0", "p1"], (1, 1), (2, 1)))
    second = pool.commit(owner(2), plan_of(["p1"], (1, 1)))
    assert [(task.seq, task.turns) for task in first + second] == [
        (1, {"p0": 1}),
        (2, {"p0": 2, "p1": 1}),
        (3, {"p1": 2}),
    ]


def test_a_chunk_counts_from_its_last_members_ready():
    pool = pool_of(2)
    (task,) = pool.commit(owner(1), plan_of(["p0", "p1"], (2, 2)))
    pool.ready("p0", task.seq, 1, 1.0)
    assert pool.delays(3.0)["p0"] == 2.0
    pool.ready("p1", task.seq, 1, 3.0)
    assert pool.delays(4.0) == {"p0": 1.0, "p1": 1.0}


def test_an_overdue_chunk_is_expected_now_and_pushes_what_follows():
    pool = pool_of(1)
    (task,) = pool.commit(owner(1), plan_of(["p0"], (1, 1)))
    pool.commit(owner(2), plan_of(["p0"], (1, 2)))
    pool.ready("p0", task.seq, 1, 0.0)
    assert pool.delays(0.5) == {"p0": 2.5}
    assert pool.delays(4.0) == {"p0": 2.0}
    assert pool.delays(5.0) == {"p0": 2.0}


def test_a_finished_turn_frees_its_member_alone():
    pool = pool_of(2)
    (task,) = pool.commit(owner(1), plan_of(["p0", "p1"], (2, 2)))
    pool.ready("p0", task.seq, 1, 0.0)
    pool.ready("p1", task.seq, 1, 0.0)
    pool.finished("p0", 1)
    assert pool.delays(1.0) == {"p0": 0.0, "p1": 1.0}
    pool.finished("p1", 1)
    assert not list(pool.tasks)


def test_a_running_chunk_needs_no_ready():
    pool = pool_of(1)
    (task,) = pool.commit(owner(1), plan_of(["p0"], (1, 2)))
    pool.running("p0", task.seq, 1.0)
    assert pool.delays(2.0) == {"p0": 1.0}


def test_a_chunk_begins_once_whoever_says_it_and_its_members_compute_since_then():
    pool = pool_of(3)
    (task,) = pool.commit(owner(1), plan_of(["p0", "p1"], (2, 2)))
    assert pool.ready("p0", task.seq, 1, 1.0) is None
    assert pool.computing() == {}
    assert pool.ready("p1", task.seq, 1, 3.0) is task
    assert pool.ready("p1", task.seq, 1, 4.0) is None
    assert pool.running("p0", task.seq, 4.0) is None
    assert pool.computing() == {"p0": 3.0, "p1": 3.0}
    pool.finished("p0", 1)
    assert pool.computing() == {"p1": 3.0}
    (other,) = pool.commit(owner(2), plan_of(["p2"], (1, 2)))
    assert pool.running("p2", other.seq, 5.0) is other


def test_facts_of_another_turn_or_stranger_change_nothing():
    pool = pool_of(2)
    (task,) = pool.commit(owner(1), plan_of(["p0"], (1, 2)))
    pool.ready("p0", task.seq, 7, 0.0)
    pool.ready("p1", task.seq, 1, 0.0)
    pool.ready("nobody", task.seq, 1, 0.0)
    pool.running("p1", task.seq, 0.0)
    pool.finished("nobody", 9)
    assert not pool.is_turn("p1", task.seq, 1)
    assert task.started is None
    assert pool.delays(5.0)["p0"] == 2.0


def test_a_forgotten_attempt_leaves_the_turns_that_were_not_finished():
    pool = pool_of(2)
    pool.commit(owner(1), plan_of(["p0", "p1"], (1, 1), (2, 1)))
    pool.commit(owner(2), plan_of(["p1"], (1, 4)))
    pool.finished("p0", 1)
    assert sorted(pool.forget(owner(1))) == [("p0", 2), ("p1", 1)]
    assert pool.delays(0.0) == {"p0": 0.0, "p1": 4.0}
    assert pool.forget(owner(1)) == []


def test_a_lost_instance_leaves_and_its_next_life_starts_at_turn_1():
    pool = pool_of(2)
    pool.commit(owner(1), plan_of(["p0", "p1"], (2, 3)))
    pool.leave("p0")
    assert pool.delays(0.0) == {"p1": 3.0}
    pool.join("p0", "n0")
    (task,) = pool.commit(owner(2), plan_of(["p0"], (1, 1)))
    assert task.turns == {"p0": 1}
    assert pool.planned("p0") == 1
    assert pool.planned("stranger") == 0
    pool.leave("p0")
    pool.leave("p0")
    pool.forget(owner(1))
    assert not list(pool.tasks)


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**32))
def test_delays_equal_an_event_by_event_execution(seed):
    rng = random.Random(seed)
    pool, names = pool_of(4), [f"p{index}" for index in range(4)]
    work = []
    for number in range(rng.randint(1, 8)):
        size = rng.randint(1, 4)
        group, seconds = rng.sample(names, size), rng.uniform(0.1, 3)
        pool.commit(owner(number), plan_of(group, (size, seconds)))
        work.append((set(group), seconds))
    assert pool.delays(0.0) == pytest.approx(executed(names, work))


def executed(names, work):
    """Each instance runs its chunks in order; a chunk starts when it heads all its queues."""
    queues = {name: [job for job in work if name in job[0]] for name in names}
    now, running, finished = 0.0, [], dict.fromkeys(names, 0.0)
    while any(queues.values()):
        busy = {name for _, group, _ in running for name in group}
        for job in work:
            group, seconds = job
            heads = all(queues[name] and queues[name][0] is job for name in group)
            if heads and not busy & group:
                running.append((now + seconds, group, job))
                busy |= group
        now, group, job = min(running, key=lambda entry: entry[0])
        running.remove((now, group, job))
        for name in group:
            queues[name].pop(0)
            finished[name] = now
    return finished


def test_the_end_of_an_attempt_is_that_of_its_last_chunk():
    pool = pool_of(2)
    pool.commit(owner(1), plan_of(["p0", "p1"], (1, 2), (2, 3)))
    pool.commit(owner(2), plan_of(["p1"], (1, 1)))
    assert pool.ends(10.0) == {owner(1): 15.0, owner(2): 16.0}
    pool.ready("p0", 1, 1, 10.5)
    assert pool.ends(11.0) == {owner(1): 15.5, owner(2): 16.5}
    pool.forget(owner(1))
    assert pool.ends(12.0) == {owner(2): 13.0}
