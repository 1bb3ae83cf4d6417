import tomllib

import pytest
from msgspec.structs import replace

from common.errors import ConfigError
from common.schedule import Schedule
from compose.lab import rates
from compose.lab.experiment import Experiment, run

BASE = Experiment(latency="a100-llama3-8b", requests=300)


def test_a_profile_records_the_rate_with_the_least_mean_ttft():
    found = rates.profile(BASE, [4.0], [1, 2])
    means = {
        rate: sum(
            run(
                replace(BASE, rate=4.0, seed=seed, schedule=Schedule(improvement_rate=rate))
            ).ttft_mean
            for seed in (1, 2)
        )
        for rate in rates.RATES
    }
    assert found == {"4": min(means, key=means.__getitem__)}


def test_its_toml_can_be_read_back():
    mapping = {"0.5": 0.05, "1": 0.3}
    assert tomllib.loads(rates.as_toml("cdsp", "short", mapping)) == {"cdsp": {"short": mapping}}


def test_every_workload_of_the_papers_cluster_has_shipped_mappings():
    for policy in ("cdsp", "single-chunk"):
        for workload in ("short", "medium", "long"):
            mapping = rates.shipped("a100-llama3-8b", policy, workload)
            assert len(mapping) >= 6
            assert set(mapping.values()) <= set(rates.RATES)
            # A valid schedule, and small groups under load.
            Schedule(improvement_rate_mapping=mapping)
            assert mapping["0.5"] < list(mapping.values())[-1]
    assert rates.shipped("a100-llama3-8b", "cdsp-priced", "short") == {}
    assert rates.shipped("nowhere", "cdsp", "short") == {}


def test_loads_go_in_steps_of_half_a_request_per_second():
    assert rates.loads_up_to(2.2) == [0.5, 1.0, 1.5, 2.0]
    assert rates.num_runs([0.5, 1.0], [1, 2, 3]) == 2 * 15 * 3
    with pytest.raises(ConfigError, match="--top"):
        rates.loads_up_to(0.4)


def test_a_table_of_a_trace_is_toml_whatever_its_name():
    text = rates.as_toml("cdsp", "my trace.v1", {"0.5": 0.1})
    assert tomllib.loads(text) == {"cdsp": {"my trace.v1": {"0.5": 0.1}}}
