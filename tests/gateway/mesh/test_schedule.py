from common.messages import Accepted, ClusterState, GatewayFacts, InForce, Scheduled
from common.schedule import Report, Schedule, State
from gateway.mesh.schedule import KnownSchedule, report

OLD, NEW = InForce(5, Schedule(policy="loongserve")), InForce(6, Schedule(policy="single-chunk"))
FACTS = GatewayFacts(3)


def state(epoch: int, version: int, newer: InForce | None = None) -> ClusterState:
    return ClusterState(epoch, 1, 1, 1, 0, schedule=version, newer=newer)


def test_what_the_configuration_says_is_not_remembered() -> None:
    known = KnownSchedule()
    known.receive(Accepted("r", 1))
    known.receive(Scheduled(1, 5, InForce(0, Schedule()), 0.1))
    known.receive(state(1, 0))
    assert known.newest is None
    assert known.add_to(FACTS, 1) == FACTS


def test_the_newest_is_remembered_whoever_says_it() -> None:
    known = KnownSchedule()
    known.receive(Scheduled(1, 5, OLD, 0.1))
    assert known.newest == OLD
    known.receive(state(1, 6, NEW))
    known.receive(Scheduled(2, 5, OLD, 0.1))
    assert known.newest == NEW


def test_a_heartbeat_carries_the_schedule_only_to_who_does_not_know_it() -> None:
    known = KnownSchedule()
    known.receive(Scheduled(1, 5, NEW, 0.1))
    carries, knows = GatewayFacts(3, (), 6, NEW), GatewayFacts(3, (), 6)
    # The router has not said yet that it knows it.
    assert known.add_to(FACTS, 1) == carries
    known.receive(state(1, 6))
    assert known.add_to(FACTS, 1) == knows
    # Another router: it may know nothing, and its first heartbeat is the best time to tell it.
    assert known.add_to(FACTS, 2) == carries
    known.receive(state(2, 5, OLD))
    assert known.add_to(FACTS, 2) == carries
    known.receive(state(2, 7))
    assert known.add_to(FACTS, 2) == knows


def test_a_report_has_a_date_but_for_the_configuration() -> None:
    assert report(Scheduled(1, 5, InForce(0, Schedule()), 0.25)) == Report(
        Schedule(), State(None, 0.25, 0, None)
    )
    second = InForce(1_500_000_000, Schedule())
    assert report(Scheduled(1, 5, second, 0.25, 2.0)).state == State(
        2.0, 0.25, 1_500_000_000, "1970-01-01T00:00:01.500+00:00"
    )
