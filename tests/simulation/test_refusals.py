from dataclasses import replace
from pathlib import Path

import pytest

from common.config import PrefillConfig
from common.messages import ClusterState, Grant
from tests.simulation.history import CLIENT, Event, Over
from tests.simulation.refusals import GRACE, STILL, suspicious
from tests.simulation.scenario import scenario
from tests.simulation.world import World

START = 60.0
HEALED = 10.0


@pytest.fixture
def world(tmp_path: Path) -> World:
    cluster = replace(scenario(0).cluster, prefill=PrefillConfig(start_timeout=START))
    made = World(tmp_path, cluster)
    made.healed = HEALED
    return made


def over(world: World, time: float, outcome: str) -> None:
    world.history.events.append(Event(time, CLIENT, "took", Over("a", outcome)))


@pytest.mark.parametrize("outcome", ["refused 400", "refused 500"])
def test_some_refusals_never_have_an_excuse(world: World, outcome: str):
    over(world, 1.0, outcome)
    assert len(suspicious(world)) == 1


def test_refusals_soon_after_the_faults_are_excused(world: World):
    over(world, HEALED + GRACE, "refused 503")
    over(world, HEALED + STILL, "refused 504")
    assert suspicious(world) == []


def test_a_request_may_stand_as_long_as_a_group_waits_for_a_member(world: World):
    over(world, HEALED + STILL + START, "refused 504")
    assert suspicious(world) == []


def test_a_request_that_stood_still_for_longer_is_found(world: World):
    over(world, HEALED + STILL + START + 1.0, "refused 504")
    assert len(suspicious(world)) == 1


@pytest.mark.parametrize(
    "message", [Grant("a", 1, 0, 0, 0, 1), ClusterState(1, 1, 1, 1, waiting=2)]
)
def test_one_that_moved_on_or_waited_with_others_is_not(
    world: World, message: Grant | ClusterState
):
    end = HEALED + STILL + START + 1.0
    world.history.events.append(Event(end - 1.0, "mem://router", "sent", message))
    over(world, end, "refused 504")
    assert suspicious(world) == []
