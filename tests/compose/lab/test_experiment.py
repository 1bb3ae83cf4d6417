import numpy as np
import pytest
from msgspec.structs import replace

from common.errors import ConfigError, RequestFailed
from common.schedule import Schedule
from compose.lab.experiment import WARM_UP, Experiment, demands, figures, outcomes, run

BASE = Experiment(latency="a100-llama3-8b", rate=2.0, requests=400, seed=7)


def test_the_same_experiment_gives_the_same_figures_and_another_seed_others():
    assert run(BASE) == run(BASE)
    assert run(BASE) != run(replace(BASE, seed=8))


def test_policies_serve_the_same_requests():
    given = demands(BASE)
    assert demands(replace(BASE, schedule=Schedule(policy="fixed-sp:8"))) == given
    faster = demands(replace(BASE, rate=4.0))
    assert [one.length for one in faster] == [one.length for one in given]
    assert [one.at for one in faster] == pytest.approx([one.at / 2 for one in given])


def test_the_figures_are_those_of_the_outcomes_after_the_first_hundred():
    given = demands(BASE)
    done = outcomes(BASE, given)
    found = figures(BASE, given, done)
    ttft = [one.ttft for one in done[WARM_UP:]]
    assert found.ttft_p50 == np.percentile(ttft, 50)
    assert found.ttft_p99 == np.percentile(ttft, 99)
    assert found.ttft_mean == pytest.approx(sum(ttft) / len(ttft))
    by_length = sorted(done[WARM_UP:], key=lambda one: one.length)
    longest = [one.ttft for one in by_length[-len(ttft) // 10 :]]
    assert found.ttft_p99_longest_decile == pytest.approx(np.percentile(longest, 99), rel=0.02)
    assert sum(found.chunks_histogram.values()) == len(ttft)
    chunks = sum(int(count) * number for count, number in found.chunks_histogram.items())
    assert sum(found.sp_histogram.values()) == chunks
    assert found.requests == 400
    tokens = sum(one.length for one in done[WARM_UP:])
    span = max(one.at + one.ttft for one in done) - done[WARM_UP].at
    assert found.throughput_tokens_per_s == pytest.approx(tokens / span)


def test_a_trace_is_served_at_its_own_pace_or_at_a_wanted_one(tmp_path):
    trace = tmp_path / "trace.jsonl"
    row = '{{"timestamp": {at}, "input_length": {length}, "output_length": 5, "hash_ids": []}}\n'
    trace.write_text(
        "".join(row.format(at=1000 * i, length=4_000 + 10 * i) for i in range(300)),
    )
    own = replace(BASE, workload=str(trace), rate=None)
    assert [one.at for one in demands(own)] == pytest.approx(list(range(300)))
    assert run(own).rate == pytest.approx(1.0, rel=0.01)
    quick = demands(replace(own, rate=2.0))
    assert quick[-1].at == pytest.approx(150.0, rel=0.01)
    half = demands(replace(own, time_scale=0.5))
    assert half[-1].at == pytest.approx(149.5)
    assert min(one.length for one in demands(replace(own, min_length=5_000))) == 5_000


def test_what_cannot_be_simulated_is_said(tmp_path):
    with pytest.raises(ConfigError, match="give short, medium, long"):
        run(replace(BASE, workload="huge"))
    with pytest.raises(ConfigError, match="needs a rate"):
        run(replace(BASE, rate=None))
    broken = tmp_path / "broken.jsonl"
    broken.write_text("not a trace\n")
    with pytest.raises(ConfigError, match=r"broken\.jsonl"):
        run(replace(BASE, workload=str(broken)))
    with pytest.raises(RequestFailed, match="policy"):
        run(replace(BASE, schedule=Schedule(policy="fixed-sp:3")))
    with pytest.raises(ConfigError, match="no such latency model"):
        run(replace(BASE, latency="nowhere"))
