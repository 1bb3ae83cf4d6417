import pytest

from common.latency import Curve, LatencyModel
from compose.plan_board import WIDTH, board, letter
from services.router.forced import forced_plan
from services.router.plan import Plan, Policy, PoolView
from services.router.planner import Planner

MODEL = LatencyModel({1: Curve(0, 1e-3, 0, 0), 2: Curve(0, 0.5e-3, 0, 0)})
"""A thousand tokens a second on one instance, two thousand on two."""


def planned(length: int, delays: list[float], per_node: int = 2) -> Plan:
    names = tuple(f"p{index}" for index in range(len(delays)))
    nodes = tuple(f"n{index // per_node}" for index in range(len(delays)))
    view = PoolView(names, nodes, tuple(delays))
    return Planner(Policy((1, 2), 0.0, 1)).plan(length, view, MODEL)


def test_a_plan_is_drawn_node_by_node_over_its_seconds() -> None:
    plan = planned(2000, [0.0, 0.5, 0.9, 0.0, 9.0], per_node=3)
    # p3 is free first, but a group prefers one node.
    assert board(plan) == [
        "n0",
        "  p0 AAAAAAAAAAAAAAAAAAAAAAAAAABBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBB",
        "  p1 ##########################BBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBB",
        "  p2 ##############################################··················",
        "n1",
        "  p3 ································································",
        "  p4 ################################################################",
        "     |                         |                        |",
        "     0                         0.5                      1 s",
    ]


def test_waiting_shows_as_idle_time() -> None:
    plan = planned(1000, [3.0, 3.5], per_node=1)
    assert board(plan) == [
        "n0",
        "  p0 ################################################AAAAAAAAAAAAAAAA",
        "n1",
        "  p1 ########################################################········",
        "     |               |               |               |               |",
        "     0               1               2               3               4 s",
    ]


def test_more_instances_than_rows_share_rows_that_look_the_same() -> None:
    delays = [1.0] + [2.0] * 15 + [1.0] + [0.5] * 2 + [1.0] * 15
    assert board(planned(4000, delays, per_node=17)) == [
        "n0",
        "  p0 +1   ##########################······································",
        "  p1 +14  ###################################################·············",
        "n1",
        "  p17 +1  #############AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",
        "  p19 +14 ##########################······································",
        "          |            |            |           |            |            |",
        "          0            0.5          1           1.5          2            2.5 s",
    ]


def test_what_takes_no_whole_cell_gets_one() -> None:
    plan = planned(100_000, [1e-6, 0.004], per_node=1)
    rows = [line for line in board(plan) if line.startswith("  p")]
    assert [row.split()[1][:3] for row in rows] == ["#AB", "#BB"]
    assert all(len(row.split()[1]) == WIDTH for row in rows)


@pytest.mark.parametrize("length", [1, 7, 1000, 123_456, 10**9])
def test_the_axis_has_a_few_round_ticks_within_the_drawing(length: int) -> None:
    *_, marks, labels = board(planned(length, [0.0]))
    assert 2 <= marks.count("|") <= 7
    assert len(marks) <= WIDTH + 6
    assert labels.endswith(" s")
    assert len(labels.split()) == marks.count("|") + 1


def test_a_plan_that_takes_no_time_is_drawn_all_the_same() -> None:
    view = PoolView(("p0",), ("n0",), (0.0,))
    model = LatencyModel({1: Curve(0, 0, 0, 0)})
    lines = board(Planner(Policy((1,), 0.0, 1)).plan(10, view, model))
    assert lines[1].startswith("  p0 A···")


def test_every_chunk_has_a_letter_as_long_as_there_are_any() -> None:
    view = PoolView(("p0",), ("n0",), (0.0,))
    plan = forced_plan(",".join(["1"] * 64), 6400, view, Policy((1,), 0.0, 1), MODEL)
    row = board(plan)[1].split()[1]
    assert row == "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz++++++++++++"
    assert letter(0) == "A"
