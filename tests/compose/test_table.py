import pytest

from compose.table import bar, count, duration, printable, table


def test_columns_are_aligned_and_empty_ones_left_out():
    rows = [("a", "", "1"), ("long name", "", "100")]
    assert table(("NAME", "WHY", "NUMBER"), rows, "NUMBER") == [
        "NAME       NUMBER",
        "a               1",
        "long name     100",
    ]


def test_no_cell_reaches_the_terminal_as_a_command():
    assert printable("a\x1b[2Jb\nc\u202e") == "a?[2Jb?c?"
    assert table(("ID",), [("x\x1b",)]) == ["ID", "x?"]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0, "0.0 s"),
        (9.94, "9.9 s"),
        (9.96, "10 s"),
        (99.0, "99 s"),
        (100.0, "2 min"),
        (5960.0, "99 min"),
        (7200.0, "2.0 h"),
    ],
)
def test_durations_are_short(seconds: float, text: str):
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("used", "total", "text"),
    [
        (0, 0, ""),
        (0, 64, "[..........]   0 %"),
        (1, 1000, "[#.........]   0 %"),
        (50, 100, "[#####.....]  50 %"),
        (999, 1000, "[#########.]  99 %"),
        (64, 64, "[##########] 100 %"),
        (70, 64, "[##########] 100 %"),
    ],
)
def test_a_bar_shows_a_little_and_is_only_full_when_full(used: int, total: int, text: str):
    assert bar(used, total) == text


def test_one_is_singular():
    assert [count(n, "slot") for n in (0, 1, 2)] == ["0 slots", "1 slot", "2 slots"]
