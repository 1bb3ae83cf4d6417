from hypothesis import given
from hypothesis import strategies as st

from services.prefill_worker.turns import MAX_AHEAD, Turns


def fresh(epoch: int = 1) -> Turns[str]:
    turns: Turns[str] = Turns()
    assert turns.enter(epoch)
    return turns


def run_all(turns: Turns[str]) -> list[str]:
    done = []
    while (work := turns.next()) is not None:
        done.append(work)
        turns.finish(turns.epoch, turns.finished_through + 1)
    return done


@given(st.permutations(range(1, 9)), st.sets(st.integers(1, 8)))
def test_any_order_of_arrival_is_executed_by_turn(order: list[int], void: set[int]) -> None:
    turns, done = fresh(), []
    for turn in order:
        assert turns.add(turn, None if turn in void else str(turn))
        assert not turns.add(turn, "again")
        done += run_all(turns)
    assert done == [str(turn) for turn in range(1, 9) if turn not in void]
    assert turns.received_through == turns.finished_through == 8


def test_a_missing_turn_holds_everything_behind_it_back() -> None:
    turns = fresh()
    turns.add(2, "b")
    assert (turns.next(), turns.received_through) == (None, 0)
    turns.add(1, "a")
    assert (turns.next(), turns.received_through, turns.finished_through) == ("a", 2, 0)


def test_only_one_turn_runs_at_a_time() -> None:
    turns = fresh()
    turns.add(1, "a")
    turns.add(2, "b")
    assert turns.next() == "a"
    assert turns.next() is None
    turns.finish(1, 1)
    assert turns.next() == "b"


def test_a_new_epoch_starts_again_at_turn_one_and_forgets_the_old() -> None:
    turns = fresh()
    turns.add(1, "a")
    turns.add(2, "b")
    turns.next()
    assert turns.enter(2)
    turns.add(1, "c")
    turns.finish(1, 1)
    assert turns.finished_through == 0
    assert turns.next() == "c"
    assert not turns.enter(1)


def test_work_that_nobody_wants_becomes_void() -> None:
    turns = fresh()
    for turn, work in enumerate("abab", start=1):
        turns.add(turn, work)
    turns.void(lambda work: work == "a")
    assert run_all(turns) == ["b", "b"]
    assert turns.finished_through == 4


def test_turns_too_far_ahead_are_not_taken() -> None:
    turns = fresh()
    assert not turns.add(MAX_AHEAD + 1, "far")
    assert turns.add(MAX_AHEAD, "near")
