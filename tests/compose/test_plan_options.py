import argparse

import pytest

from compose.plan_options import add_plan

NEEDED = ["--preset", "a100-llama3-8b", "--length", "1000"]


def options(*given: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_plan(parser)
    return parser.parse_args([*NEEDED, *given])


def test_only_preset_and_length_are_needed() -> None:
    found = options()
    assert (found.preset, found.length, found.delays) == ("a100-llama3-8b", 1000, "0")
    assert (found.history, found.prefix, found.waiting, found.json) == (0, None, 0, False)
    assert {found.policy, found.improvement_rate, found.sizes, found.min_chunk} == {None}


def test_lists_and_prefixes_are_read() -> None:
    assert options("--sizes", "1,4,16").sizes == (1, 4, 16)
    assert options("--prefix", "500@3,0").prefix == (500, (3, 0))


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        (["--length", "0"], "must be between 1 and"),
        (["--length", "many"], "'many' is not a whole number"),
        (["--history", "-1"], "must be between 0 and"),
        (["--sizes", "1,,2"], "'' is not a whole number"),
        (["--nodes", "1025"], "must be between 1 and 1024"),
        (["--prefix", "500"], "'' is not a whole number"),
        (["--prefix", "500@0,0"], "names an instance twice"),
        (["--prefix", "0@0"], "must be between 1 and"),
        (["--prefix", "5@0", "--history", "5"], "not allowed with"),
    ],
)
def test_a_wrong_option_is_refused_with_its_reason(
    given: list[str], reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        options(*given)
    assert end.value.code == 2
    assert reason in capsys.readouterr().err
