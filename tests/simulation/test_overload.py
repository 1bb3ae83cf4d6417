from dataclasses import replace
from pathlib import Path

import pytest

from common.config import GatewayConfig, RouterConfig
from loadgen.lengths import Lengths, workload
from tests.bench.overload_figures import Result, Returning, percentile
from tests.simulation.cluster import Cluster
from tests.simulation.overload import Overload, capacity, overload
from tests.simulation.virtual_loop import run

FOUR = Cluster(
    num_prefill=4,
    num_nodes=1,
    error=0.05,
    gateway=GatewayConfig(max_requests=4096),
    router=RouterConfig(calibrate_seconds=0.0, learn=False, max_ttft=30.0),
)
CASE = Overload(FOUR, workload("short"), Lengths(1, 8, 64, sigma=0.8), rate=1.0, probes=40)


def tenfold(path: Path, case: Overload) -> Result:
    able = run(capacity(path, case, count=60))
    return run(overload(path, replace(case, rate=10 * able)), 20_000)


@pytest.mark.parametrize("returning", ["probes", "all"])
def test_under_tenfold_load_predictions_hold_and_so_does_retry_after(
    tmp_path: Path, returning: Returning
) -> None:
    result = tenfold(tmp_path, replace(CASE, returning=returning))
    errors = result.errors(at_gateway=False)
    assert len(errors) == result.num_taken > 80
    assert percentile(errors, 95) <= 0.20
    assert percentile(result.errors(), 95) <= 0.20
    back = result.probes()
    assert len(back) >= 20
    assert sum(back) >= 0.9 * len(back)
    assert result.busy > 0.95
    assert result.promises < 1000
    longest = FOUR.router.max_ttft * 1.1
    assert max(one.ttft for one in result.tries) < longest


def test_without_promises_whoever_returns_finds_his_place_taken(tmp_path: Path) -> None:
    result = tenfold(tmp_path, replace(CASE, promises=False, seconds=40.0))
    back = result.probes(within=40.0)
    assert len(back) >= 20
    assert sum(back) < 0.5 * len(back)


def test_what_waits_for_memory_is_predicted_as_well(tmp_path: Path) -> None:
    tight = replace(FOUR, prefill_tokens=110_000)
    result = tenfold(tmp_path, replace(CASE, cluster=tight))
    assert result.waiting > 5
    assert percentile(result.errors(), 95) <= 0.25
    back = result.probes()
    assert sum(back) >= 0.9 * len(back)
