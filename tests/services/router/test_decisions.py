from common.latency import Curve, LatencyModel
from common.messages import ChunkDone
from common.pages import Owner
from services.router.decisions import MAX_REMEMBERED, Decisions
from services.router.plan import Policy, PoolView
from services.router.planner import Planner
from services.router.requests import Request
from tests.services.router.mesh import GATEWAY

MODEL = LatencyModel({1: Curve(0, 1e-3, 0, 0), 2: Curve(0, 0.5e-3, 0, 0)})
PLAN = Planner(Policy((1, 2), 0.0, 1)).plan(
    2000, PoolView(("p0", "p1"), ("n", "n"), (0.0, 0.5)), MODEL
)


def add(decisions: Decisions, name: str = "r", attempt: int = 1, now: float = 3.0) -> None:
    request = Request(Owner(name, attempt), GATEWAY, plan=PLAN, decode="d", arrived=1.0)
    decisions.add(request, MODEL, 0.75, now)


def done(name: str, index: int = 0, attempt: int = 1, **seconds: float) -> ChunkDone:
    fields = {"compute": 1.0, "wait": 0.0, "balance": 0.0, "gather": 0.0} | seconds
    return ChunkDone(
        name, 1, 1, 1, "r", attempt, index, send=0.0, sent_bytes=0, total_bytes=0, **fields
    )


def test_the_newest_plan_of_a_request_is_found_with_its_model() -> None:
    decisions = Decisions()
    assert decisions.find("r") is None
    add(decisions)
    add(decisions, attempt=2, now=5.0)
    found = decisions.find("r")
    assert found is not None
    assert (found.owner, found.plan, found.model) == (Owner("r", 2), PLAN, MODEL)
    assert (found.arrived, found.planned, found.shadow, found.decode) == (1.0, 5.0, 0.75, "d")


def test_the_oldest_plan_is_forgotten_and_one_planned_again_is_not_old() -> None:
    decisions = Decisions()
    for number in range(MAX_REMEMBERED):
        add(decisions, f"r{number}")
    add(decisions, "r0", attempt=2)
    add(decisions, "new")
    assert decisions.find("r1") is None
    assert decisions.find("r0") is not None and decisions.find("r2") is not None


def test_of_each_phase_the_slowest_members_seconds_are_kept() -> None:
    decisions = Decisions()
    add(decisions)
    decisions.computed(done("p0", 1, compute=1.0, wait=0.75, gather=0.5), 7.0)
    decisions.computed(done("p1", 1, compute=0.5, balance=1.0), 8.0)
    found = decisions.find("r")
    assert found is not None
    assert list(found.measured) == [1]
    one = found.measured[1]
    assert (one.num_members, one.ended) == (2, 8.0)
    assert (one.seconds, one.gather, one.compute) == (1.5, 0.5, 1.0)
    assert (one.wait, one.balance) == (0.25, 1.0)


def test_what_another_attempt_or_a_stranger_has_computed_is_not_measured() -> None:
    decisions = Decisions()
    decisions.computed(done("p0"), 7.0)
    add(decisions, attempt=2)
    decisions.computed(done("p0", attempt=1), 7.0)
    found = decisions.find("r")
    assert found is not None and found.measured == {}
