import pytest
from msgspec import structs

from common.messages import (
    Accepted,
    Ask,
    Cancel,
    ClusterState,
    GatewayFacts,
    Heartbeat,
    InForce,
    Rejected,
    Released,
    RunChunk,
    Scheduled,
    Update,
)
from common.pages import Owner
from common.schedule import Pricing, Schedule, ScheduleChange, change_of
from services.router import updates
from tests.services.router.mesh import Mesh, hello

EPOCH = 77


def update(mesh: Mesh, tree: dict, query: int = 1, reply: str = "in-g", known=None) -> Scheduled:
    """The answer to a change."""
    mesh.sent.clear()
    mesh.give(Update(query, reply, change_of(tree), known))
    ((to, answer),) = mesh.sent_of(Scheduled)
    assert (to, answer.query) == (reply, query)
    return answer


def ask(mesh: Mesh) -> Scheduled:
    mesh.sent.clear()
    mesh.give(Ask(7, "in-g", "schedule"))
    return mesh.sent_of(Scheduled)[0][1]


def beat(mesh: Mesh, schedule: int = 0, newer: InForce | None = None) -> ClusterState:
    """What the router answers to a gateway that knows that much."""
    mesh.sent.clear()
    mesh.give(Heartbeat("gateway", "g", 1, GatewayFacts(0, (), schedule, newer), "in-g"))
    return mesh.sent_of(ClusterState)[0][1]


def plan_of(mesh: Mesh, name: str, length: int = 8000) -> list[tuple[int, int]]:
    """Sizes and lengths of the chunks that a request gets."""
    mesh.sent.clear()
    mesh.submit(name, length)
    run = mesh.sent_of(RunChunk)[0][1]
    return [(chunk.size, chunk.length) for chunk in run.chunks]


def test_an_update_is_in_force_at_once_and_answered_with_the_whole_schedule():
    mesh = Mesh(num_prefill=4, schedule=Schedule(improvement_rate=0.2))
    before = ask(mesh)
    assert (before.current, before.improvement_rate, before.load) == (
        InForce(0, Schedule(improvement_rate=0.2)),
        0.2,
        None,
    )
    tree = {"policy": "fixed-sp:2", "priced": {"base": 1.0}, "improvement_rate_mapping": {"1": 0.5}}
    answer = update(mesh, tree)
    assert answer.refusal is None
    assert answer.current == InForce(
        EPOCH,
        Schedule(
            policy="fixed-sp:2",
            improvement_rate=0.2,
            improvement_rate_mapping={"1": 0.5},
            priced=Pricing(base=1.0),
        ),
    )
    assert ask(mesh) == structs.replace(answer, query=7)
    assert plan_of(mesh, "r") == [(2, 8000)]


def test_every_policy_changes_the_plans_that_are_made_from_then_on():
    plans = []
    for policy in ("cdsp", "single-chunk", "fixed-sp:2", "fixed-sp:1"):
        # Large instances, half of which are busy.
        mesh = Mesh(num_prefill=0, schedule=Schedule(policy="loongserve"))
        for index in range(8):
            mesh.give(hello("prefill-worker", f"p{index}", total=200_000))
        mesh.give(hello("decode-worker", "e", total=400_000))
        mesh.submit("first", 20_000, forced_plan="4")
        assert update(mesh, {"policy": policy}).refusal is None
        plans.append(plan_of(mesh, "second", 60_000))
    assert plans == [[(4, 20_000), (8, 40_000)], [(8, 60_000)], [(2, 60_000)], [(1, 60_000)]]


@pytest.mark.parametrize(
    ("tree", "key"),
    [
        ({"policy": "fixed-sp:3"}, "policy"),
        ({"policy": "fixed-sp:4", "improvement_rate": 0.5, "min_chunk": 7}, "policy"),
        ({"sp_size_candidates": [3, 5], "improvement_rate": 0.5}, "sp_size_candidates"),
        ({"sp_size_candidates": [4, 8], "priced": {"base": 9}}, "sp_size_candidates"),
    ],
)
def test_a_refused_update_has_changed_nothing(tree, key):
    mesh = Mesh(num_prefill=2)
    update(mesh, {"policy": "single-chunk", "improvement_rate_mapping": {"2": 0.7}}, 1)
    before, requests = ask(mesh), mesh.router.books.requests
    answer = update(mesh, tree, 2)
    assert answer.refusal is not None
    assert answer.refusal.startswith(f"{key}: ")
    assert answer.current == before.current
    assert ask(mesh) == before
    assert requests.num_waiting == 0
    # Nor does anybody have to hear of it.
    assert beat(mesh, before.current.version).newer is None


def test_what_needs_members_that_may_come_is_not_refused():
    mesh = Mesh(num_prefill=2)
    mesh.give(hello("prefill-worker", "p9"))
    assert update(mesh, {"policy": "fixed-sp:4"}).refusal is None


def test_an_empty_change_changes_nothing_and_an_equal_one_is_worth_remembering():
    mesh = Mesh()
    assert update(mesh, {}, 1).current.version == 0
    # It has to outlive a router whose next configuration is another one.
    assert update(mesh, {"policy": "cdsp"}, 2).current.version == EPOCH


def test_the_same_update_is_taken_once_however_often_it_comes():
    mesh = Mesh()
    first = update(mesh, {"policy": "single-chunk"}, 1)
    second = update(mesh, {"policy": "loongserve"}, 2)
    assert update(mesh, {"policy": "single-chunk"}, 1) == first
    assert ask(mesh).current == second.current
    # Another gateway counts its own questions.
    assert update(mesh, {"min_chunk": 5}, 1, "in-h").current.schedule.min_chunk == 5


def test_a_refusal_stays_one_when_its_update_comes_again():
    mesh = Mesh()
    first = update(mesh, {"policy": "fixed-sp:4"}, 1)
    for name in ("p2", "p3"):
        mesh.give(hello("prefill-worker", name))
    assert update(mesh, {"policy": "fixed-sp:4"}, 1) == first
    assert update(mesh, {"policy": "fixed-sp:4"}, 2).refusal is None


def test_what_is_remembered_of_updates_is_bounded(monkeypatch):
    monkeypatch.setattr(updates, "MAX_ANSWERED", 3)
    mesh = Mesh()
    for query in range(10):
        update(mesh, {"min_chunk": 1 + query}, query)
    assert len(mesh.router.updates._answers) == 3


def test_of_concurrent_updates_each_is_whole_and_the_last_one_stays():
    mesh = Mesh(num_prefill=4)
    one = {"policy": "fixed-sp:1", "sp_size_candidates": [1], "min_chunk": 1}
    two = {"policy": "fixed-sp:2", "sp_size_candidates": [2], "min_chunk": 2}
    versions = []
    for query in range(20):
        tree, who = (one, "in-g") if query % 2 else (two, "in-h")
        answer = update(mesh, tree, query, who)
        versions.append(answer.current.version)
        found = answer.current.schedule
        assert (found.policy, list(found.sp_size_candidates), found.min_chunk) == tuple(
            tree.values()
        )
    assert versions == sorted(set(versions))
    assert ask(mesh).current.schedule.policy == "fixed-sp:1"


def test_versions_are_the_time_of_the_change_and_only_ever_grow():
    mesh = Mesh()
    mesh.router.tick(mesh.now)
    mesh.now = 2.5
    assert update(mesh, {"min_chunk": 1}, 1).current.version == EPOCH + 2_500_000_000
    assert update(mesh, {"min_chunk": 2}, 2).current.version == EPOCH + 2_500_000_001
    # A gateway may have heard of one by a router whose clock went ahead.
    ahead = InForce(10**18, Schedule())
    assert update(mesh, {"min_chunk": 3}, 3, known=ahead).current.version == 10**18 + 1
    last = InForce(updates.LAST_VERSION, Schedule())
    assert update(mesh, {"min_chunk": 4}, 4, known=last).current == InForce(
        updates.LAST_VERSION, Schedule(min_chunk=4)
    )


def test_what_is_planned_keeps_its_plan_and_what_waits_is_planned_by_the_new_schedule():
    schedule = Schedule(policy="cdsp-priced", priced=Pricing(replan=False))
    mesh = Mesh(num_prefill=2, schedule=schedule)
    for name in ("a", "b", "c"):
        mesh.submit(name, 4000)
    requests = mesh.router.books.requests
    planned = {one.owner.request: one.plan for one in requests.live if one.plan is not None}
    waiting = {one.owner.request for one in requests.waiting}
    assert planned
    assert waiting
    update(mesh, {"policy": "fixed-sp:1"})
    # Nobody waits for instances any more.
    assert requests.num_waiting == 0
    found = {one.owner.request: one.plan for one in requests.live}
    assert {name: found[name] for name in planned} == planned
    for name in waiting:
        assert [chunk.size for chunk in found[name].chunks] == [1]
    assert {message.request for _, message in mesh.sent_of(Accepted)} == waiting


def test_verdicts_of_another_schedule_do_not_count():
    mesh = Mesh(num_prefill=2, schedule=Schedule(policy="fixed-sp:1"))
    # Too long for one instance, and waiting since members may still come.
    mesh.give(hello("prefill-worker", "p2"))
    mesh.submit("long", 12_000)
    (request,) = mesh.router.books.requests.waiting
    assert request.verdict is not None
    assert request.verdict[1] is not None
    update(mesh, {"policy": "fixed-sp:2"})
    assert [chunk.size for chunk in request.plan.chunks] == [2]


def test_what_the_new_schedule_makes_impossible_is_told_so():
    schedule = Schedule(policy="cdsp-priced", sp_size_candidates=(1, 2))
    mesh = Mesh(num_prefill=2, schedule=schedule)
    for name in ("a", "b"):
        mesh.submit(name, 12_000, forced_plan=None)
    (waiting,) = mesh.router.books.requests.waiting
    update(mesh, {"sp_size_candidates": [1]})
    mesh.now = 0.2
    mesh.router.tick(mesh.now)
    ((_, rejected),) = mesh.sent_of(Rejected)
    assert (rejected.request, rejected.status) == (waiting.owner.request, 400)
    assert mesh.router.books.requests.get(Owner("a", 1)) is not None


def test_a_gateway_hears_of_the_schedule_until_it_says_that_it_knows_it():
    mesh = Mesh()
    assert beat(mesh) == ClusterState(EPOCH, 2, 1, 1, 0)
    current = update(mesh, {"policy": "loongserve"}).current
    state = beat(mesh)
    assert (state.schedule, state.newer) == (current.version, current)
    state = beat(mesh, current.version)
    assert (state.schedule, state.newer) == (current.version, None)


def test_a_router_that_begins_anew_takes_over_the_newest_that_gateways_know():
    old = Mesh(num_prefill=4)
    current = update(old, {"policy": "fixed-sp:2", "min_chunk": 9}).current
    mesh = Mesh(num_prefill=4)
    assert ask(mesh).current.version == 0
    assert beat(mesh, current.version, current).schedule == current.version
    assert ask(mesh).current == current
    assert plan_of(mesh, "r") == [(2, 8000)]
    older = InForce(current.version - 1, Schedule(policy="loongserve"))
    state = beat(mesh, older.version, older)
    # That gateway has missed something.
    assert state.newer == current
    assert ask(mesh).current == current


def test_an_update_builds_upon_what_its_gateway_knows():
    known = InForce(EPOCH + 5, Schedule(policy="fixed-sp:1", improvement_rate=0.6))
    mesh = Mesh()
    answer = update(mesh, {"min_chunk": 3}, known=known)
    assert answer.current == InForce(EPOCH + 6, structs.replace(known.schedule, min_chunk=3))


def test_a_schedule_that_this_router_cannot_use_is_left_alone():
    mesh = Mesh()
    strange = InForce(EPOCH + 5, Schedule(policy="fixed-sp:3"))
    state = beat(mesh, strange.version, strange)
    # The gateway need not say it again.
    assert (state.schedule, state.newer) == (strange.version, None)
    assert ask(mesh).current == InForce(0, Schedule())
    answer = update(mesh, {"min_chunk": 3})
    assert answer.current == InForce(EPOCH + 6, Schedule(min_chunk=3))


def test_whoever_watches_is_told_of_every_schedule_in_force():
    told = []
    mesh = Mesh()
    mesh.router.updates._updated = told.append
    update(mesh, {"min_chunk": 3}, 1)
    update(mesh, {"policy": "fixed-sp:16"}, 2)
    update(mesh, {}, 3)
    assert [one.schedule.min_chunk for one in told] == [3]
    assert ScheduleChange() == change_of({})


def test_an_update_judges_anew_who_needs_the_slow_instances():
    mesh = Mesh(num_prefill=4, schedule=Schedule(sp_size_candidates=(1, 2)), total=50_000)
    mesh.router.books.speeds.slow = frozenset(["p3"])
    find = mesh.router.books.requests.find
    mesh.submit("first", 90_000)
    mesh.submit("waits", 90_000)
    assert (find("first").plan.members, find("waits").plan) == (("p0", "p1"), None)
    update(mesh, {"sp_size_candidates": [4]})
    mesh.give(Cancel("first", 1))
    for name in ("p0", "p1"):
        mesh.give(Released(name, 1, "first", 1))
    # Four instances are needed, the slow one among them.
    assert len(find("waits").plan.members) == 4
