from tests.faults.catalogue import ELSEWHERE, ROWS, chosen


def test_rows_are_chosen_by_name_with_their_variants() -> None:
    assert chosen("") == list(ROWS)
    assert [row.name for row in chosen("F9, F2")] == ["F2", "F9", "F9-end", "F9-only"]
    assert [row.name for row in chosen("=F9")] == ["F9"]
    assert chosen("F99") == []


def test_every_row_of_the_design_is_run_or_says_why_not() -> None:
    run = {part for row in ROWS for part in row.name.partition("-")[0].split("+")}
    assert len({row.name for row in ROWS}) == len(ROWS)
    assert run | set(ELSEWHERE) >= {f"F{n}" for n in range(1, 36)}
