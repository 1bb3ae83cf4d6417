import sys

import pytest
from msgspec.structs import replace

from common.errors import ConfigError
from common.schedule import Schedule
from compose.lab.experiment import Experiment
from compose.lab.sweep import sweep

BASE = Experiment(latency="a100-llama3-8b", rate=2.0, requests=150)
MANY = [replace(BASE, seed=seed, rate=rate) for seed in range(3) for rate in (1.0, 2.0)]


def test_processes_give_the_figures_of_one_in_the_order_of_the_experiments():
    seen: list[int] = []
    found = sweep(MANY, seen.append, cores=2)
    assert found == sweep(MANY, cores=1)
    assert [(one.seed, one.rate) for one in found] == [(one.seed, one.rate) for one in MANY]
    assert seen == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("cores", [1, 2])
def test_one_that_cannot_be_run_ends_the_sweep_with_its_reason(cores):
    wrong = replace(BASE, schedule=Schedule(policy="fixed-sp:3"))
    with pytest.raises(ConfigError, match=r"^policy: the latency model knows the sizes"):
        sweep([*MANY, wrong, *MANY], cores=cores)


@pytest.mark.parametrize("child", ["exit 0", "exec 0<&-; exec sleep 2", "echo no; exec sleep 2",
                                   "head -c 5000000 /dev/zero; exec sleep 2"])  # fmt: skip
def test_a_process_that_dies_or_raves_ends_the_sweep(child, monkeypatch, tmp_path):
    path = tmp_path / "child"
    path.write_text(f"#!/bin/sh\n{child}\n")
    path.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(path))
    with pytest.raises(ConfigError, match="a process of the sweep has died"):
        sweep(MANY, cores=2)
