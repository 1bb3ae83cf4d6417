"""A short selection of seeds; `make simulate` runs as many as there is time for."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.simulation.nemesis import KINDS
from tests.simulation.run import main
from tests.simulation.scenario import Result, play, scenario

SEEDS = range(10)
TRACE = """
import json, sys, tempfile
from pathlib import Path
from tests.simulation.scenario import play
with tempfile.TemporaryDirectory() as path:
    result = play(Path(path), int(sys.argv[1]), float(sys.argv[2]))
json.dump([result.trace, result.num_events], sys.stdout)
"""


@pytest.fixture(scope="module")
def results() -> dict[int, Result]:
    return {}


@pytest.mark.parametrize("seed", SEEDS)
def test_whatever_goes_wrong_nothing_accepted_is_lost(
    tmp_path: Path, results: dict[int, Result], seed: int
) -> None:
    result = results[seed] = play(tmp_path, seed)
    assert result.violations == []
    assert result.num_events > 1000


def test_the_selection_was_not_an_idle_one(results: dict[int, Result]) -> None:
    assert sum(result.outcomes["answered"] for result in results.values()) > 100
    assert sum(result.num_attempts for result in results.values()) > 20
    assert sum(result.num_schedules for result in results.values()) > 20
    kinds = {fault.kind for seed in SEEDS for fault in scenario(seed).faults}
    assert kinds == set(KINDS)


def test_the_same_seed_is_the_same_run_in_any_process(tmp_path: Path) -> None:
    traces = []
    for hash_seed in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
        command = [sys.executable, "-c", TRACE, "5", "12"]
        traces.append(json.loads(subprocess.check_output(command, env=environment)))
    result = play(tmp_path, 5, 12.0)
    assert [result.trace, result.num_events] == traces[0] == traces[1]
    assert play(tmp_path, 6, 12.0).trace != result.trace


def test_the_command_tells_what_it_has_checked(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--seeds", "5..6", "--seconds-virtual", "5"]) == 0
    told = capsys.readouterr().out
    assert "2 seeds" in told
    assert "0 violations" in told
