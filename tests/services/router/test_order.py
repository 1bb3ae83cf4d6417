import math
import random
from dataclasses import dataclass

import pytest

from common.latency import LatencyModel
from common.schedule import Pricing
from services.router.order import MEMORY, Tail, ordered

A100 = LatencyModel.load("a100-llama3-8b")


@dataclass
class Waiting:
    length: int
    arrived: float = 0.0
    is_retry: bool = False


def order(queue, name, worst=0.0, now=0.0):
    return ordered(queue, Pricing(order=name), A100, worst, now)


def random_queue(seed):
    rng = random.Random(seed)
    arrived = sorted(rng.uniform(0, 10) for _ in range(20))
    return [Waiting(rng.randint(4_096, 190_000), at, rng.random() < 0.2) for at in arrived]


def test_the_order_of_arrival_is_what_the_queue_has():
    queue = random_queue(1)
    assert order(queue, "arrival") == queue


def test_a_slope_lets_short_prompts_pass_but_not_for_ever():
    lead = 3 * (A100.fastest(190_000) - A100.fastest(4_096))
    long = Waiting(190_000)
    early, late = Waiting(4_096, lead - 0.01), Waiting(4_096, lead + 0.01)
    assert order([long, early, late], "slope:3") == [early, long, late]


def test_below_the_tail_the_shortest_goes_first_at_it_the_oldest():
    queue = random_queue(2)
    calm = order(queue, "tail:0.5", worst=1e6, now=10.0)
    fresh = [one.length for one in calm if not one.is_retry]
    assert fresh == sorted(fresh)
    peak = order(queue, "tail:0.5", worst=0.0, now=10.0)
    assert [one.arrived for one in peak if not one.is_retry] == sorted(
        one.arrived for one in queue if not one.is_retry
    )


def test_whoever_cannot_stay_below_its_share_of_the_worst_ttft_goes_first():
    alone = A100.fastest(100_000)
    long, short = Waiting(100_000, arrived=5.0), Waiting(4_096, arrived=6.0)
    limit = 10.0
    just = 5.0 + limit - alone
    assert order([long, short], "tail:0.5", worst=20.0, now=just - 0.01) == [short, long]
    assert order([long, short], "tail:0.5", worst=20.0, now=just + 0.01) == [long, short]


@pytest.mark.parametrize("name", ["slope:3", "tail:0.35"])
@pytest.mark.parametrize("seed", range(20))
def test_nobody_is_lost_and_retries_go_first_by_their_age(name, seed):
    queue = random_queue(seed)
    found = order(queue, name, worst=8.0, now=10.0)
    assert sorted(map(id, found)) == sorted(map(id, queue))
    retries = [one for one in queue if one.is_retry]
    assert found[: len(retries)] == retries


def test_the_worst_ttft_fades():
    tail = Tail()
    assert tail.worst(100.0) == 0.0
    tail.note(8.0, 100.0)
    tail.note(2.0, 100.0)
    assert tail.worst(100.0) == 8.0
    assert tail.worst(100.0 + MEMORY) == pytest.approx(8.0 / math.e)
    tail.note(5.0, 100.0 + MEMORY)
    assert tail.worst(100.0 + MEMORY) == 5.0
