from random import Random

from common.errors import RequestFailed
from common.latency import LatencyModel
from common.messages import ClusterState, GatewayFacts, Heartbeat, InForce, Scheduled, Update
from common.schedule import Schedule, ScheduleChange, change_of, changed
from services.router.scheduler import check
from tests.simulation.cluster import LATENCY, Cluster
from tests.simulation.histories import ROUTER, codes, sent
from tests.simulation.schedules import CHANGES, draw

ONE, OTHER = InForce(5, Schedule()), InForce(5, Schedule(policy="loongserve"))
GATEWAY = "mem://gateway-0/1"


def said(one: InForce) -> list[object]:
    """All messages that carry a schedule."""
    return [
        Scheduled(1, 5, one, 0.1),
        ClusterState(1, 1, 1, 1, 0, newer=one),
        Update(1, GATEWAY, ScheduleChange(), one),
        Heartbeat("gateway", "g", 1, GatewayFacts(0, newer=one)),
    ]


def test_a_version_that_is_two_schedules_is_found_wherever_it_stands() -> None:
    assert codes([sent(message, ROUTER, GATEWAY) for message in said(ONE)]) == set()
    for message in said(OTHER):
        events = [sent(said(ONE)[0], ROUTER, "mem://other"), sent(message, ROUTER, GATEWAY)]
        assert codes(events) == {"I12"}


def test_configurations_may_differ() -> None:
    own = [Scheduled(number, 5, InForce(0, one.schedule), 0.1) for number, one in
           enumerate((ONE, OTHER))]  # fmt: skip
    assert codes([sent(answer, ROUTER, GATEWAY) for answer in own]) == set()


def test_an_answer_that_changes_is_found() -> None:
    answers = [Scheduled(1, 5, ONE, 0.1), Scheduled(1, 5, ONE, 0.1, refusal="no")]
    assert codes([sent(answer, ROUTER, GATEWAY) for answer in answers]) == {"I12"}
    # Another router has taken the repetition for a new update.
    answers[1] = Scheduled(1, 6, ONE, 0.1, refusal="no")
    assert codes([sent(answer, ROUTER, GATEWAY) for answer in answers]) == set()


def test_all_changes_but_the_last_can_be_made() -> None:
    model = LatencyModel.load(LATENCY)
    for index, change in enumerate(CHANGES):
        try:
            check(changed(Schedule(), change_of(change)), model)
        except RequestFailed:
            assert index == len(CHANGES) - 1
        else:
            assert index < len(CHANGES) - 1


def test_operators_are_drawn_from_a_seed() -> None:
    orders = [draw(Random(seed), Cluster(), 30.0) for seed in range(20)]
    assert orders == [draw(Random(seed), Cluster(), 30.0) for seed in range(20)]
    assert any(not some for some in orders)
    assert max(map(len, orders)) > 4
