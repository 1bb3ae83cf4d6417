import random
from dataclasses import replace

import pytest

from common.errors import RequestFailed
from common.latency import LatencyModel
from common.schedule import Pricing, Schedule
from services.router.simulator import Cluster, Demand, Simulation

A100 = LatencyModel.load("a100-llama3-8b")
POLICIES = ("cdsp", "cdsp-priced", "single-chunk", "loongserve", "fixed-sp:8")


def demands(rate, num_requests, seed=1, output=1):
    rng, at, found = random.Random(seed), 0.0, []
    for _ in range(num_requests):
        at += rng.expovariate(rate)
        found.append(Demand(at, rng.randint(4_096, 100_000), output))
    return found


def run(schedule, given, cluster=None, seed=0):
    return Simulation(cluster or Cluster(), schedule, A100, seed).run(given)


@pytest.mark.parametrize("policy", POLICIES)
def test_without_error_every_first_token_comes_when_it_was_predicted(policy):
    for outcome in run(Schedule(policy=policy), demands(2.0, 300)):
        assert outcome.ttft == pytest.approx(outcome.predicted, abs=1e-9)


@pytest.mark.parametrize("policy", POLICIES)
def test_one_request_alone_takes_what_the_model_says(policy):
    (outcome,) = run(Schedule(policy=policy, improvement_rate=0.0), [Demand(5.0, 65_536)])
    size = outcome.sizes[0]
    assert outcome.sizes == (size,)
    assert outcome.ttft == pytest.approx(A100.predict(size, 0, 65_536))
    assert outcome.waited == 0


def test_fixed_groups_are_queues_side_by_side():
    """Two groups of eight are two servers with one queue each: replayed by hand."""
    given = demands(2.0, 200)
    free, wanted = [0.0, 0.0], []
    for demand in given:
        server = min((0, 1), key=lambda index: (max(demand.at, free[index]), index))
        start = max(demand.at, free[server])
        free[server] = start + A100.predict(8, 0, demand.length)
        wanted.append(free[server] - demand.at)
    found = [outcome.ttft for outcome in run(Schedule(policy="fixed-sp:8"), given)]
    assert found == pytest.approx(wanted)


def test_an_error_spreads_real_seconds_around_the_prediction():
    given = [Demand(100.0 * index, 30_000) for index in range(2_000)]
    found = run(Schedule(), given, Cluster(error=0.15), seed=3)
    ratios = [outcome.ttft / outcome.predicted for outcome in found]
    mean = sum(ratios) / len(ratios)
    spread = (sum((ratio - mean) ** 2 for ratio in ratios) / len(ratios)) ** 0.5
    assert mean == pytest.approx(1.0, abs=0.01)
    assert spread == pytest.approx(0.15, abs=0.01)
    again = run(Schedule(), given, Cluster(error=0.15), seed=3)
    assert [outcome.ttft for outcome in again] == [outcome.ttft for outcome in found]


@pytest.mark.parametrize("policy", POLICIES)
def test_everything_is_served_whatever_is_scarce(policy):
    given = demands(3.0, 200, output=300)
    scarce = Cluster(prefill_tokens=60_000, decode_tokens=900_000, transfer_seconds=2e-5, error=0.3)
    plenty = run(Schedule(policy=policy), given, replace(scarce, prefill_tokens=None))
    found = run(Schedule(policy=policy), given, scarce)
    assert len(found) == len(given)
    assert all(outcome.ttft > 0 for outcome in found)
    assert sum(one.ttft for one in found) >= sum(one.ttft for one in plenty) * 0.9


def test_a_full_decode_side_makes_requests_wait_in_the_queue():
    given = [Demand(0.001 * index, 8_192, 1_000) for index in range(4)]
    tight = Cluster(decode=1, decode_tokens=10_000, token_seconds=0.1)
    waited = [outcome.waited for outcome in run(Schedule(), given, tight)]
    # One at a time: each waits for 1,000 tokens of every one before it.
    assert [round(seconds / 100) for seconds in waited] == [0, 1, 2, 3]


def test_what_never_fits_is_said():
    with pytest.raises(RequestFailed, match=r"prefill\.kv_tokens"):
        run(Schedule(), [Demand(0.0, 100_000)], Cluster(prefill_tokens=1_000))


def test_what_never_fits_on_a_decode_instance_is_said():
    with pytest.raises(RequestFailed, match=r"decode\.kv_tokens"):
        run(Schedule(), [Demand(0.0, 9_000, 1_000)], Cluster(decode_tokens=9_999))
    assert run(Schedule(), [Demand(0.0, 9_000, 1_000)], Cluster(decode_tokens=10_016))


def test_regulation_sees_the_load():
    mapping = {"0.5": 0.0, "5": 0.7}
    schedule = Schedule(improvement_rate=0.0, improvement_rate_mapping=mapping)
    quiet = run(schedule, [Demand(4.0 * index, 60_000) for index in range(40)])
    busy = run(schedule, [Demand(0.2 * index, 8_192) for index in range(400)])
    assert {outcome.sizes for outcome in quiet} == {(16,)}
    assert max(size for outcome in busy[200:] for size in outcome.sizes) <= 4


def test_order_and_binding_are_parameters():
    given = demands(3.0, 400)
    for priced in (Pricing(order="slope:5"), Pricing(late_binding=False), Pricing(replan=False)):
        found = run(Schedule(policy="cdsp-priced", priced=priced), given)
        assert len(found) == len(given)
