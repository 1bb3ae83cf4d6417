import pytest

from common.errors import ConfigError
from common.events import Planned
from common.latency import LatencyModel
from common.messages import Events
from common.schedule import Schedule
from services.router.plan import PoolView
from services.router.scheduler import Scheduler
from services.router.shadow import Shadow
from tests.services.router.mesh import Mesh

MODEL = LatencyModel.load("a100-llama3-8b")
VIEW = PoolView(tuple("abcd"), ("n",) * 4, (0.0, 0.5, 1.0, 2.0))
FREE = dict.fromkeys("abcd", 10**6)


def planned(schedule: Schedule, free=FREE, length: int = 100_000):
    scheduler = Scheduler(schedule, MODEL)
    plan = scheduler.admission.plan(length, VIEW, free, scheduler.policy(3, VIEW, 0.0))
    assert plan is not None
    return scheduler, plan


@pytest.mark.parametrize(
    "name", ["cdsp", "cdsp-priced", "single-chunk", "loongserve", "fixed-sp:2", "fixed-sp:4"]
)
def test_the_shadow_promises_what_its_policy_would_in_force(name: str) -> None:
    scheduler, plan = planned(Schedule(policy="cdsp"))
    _, other = planned(Schedule(policy=name))
    assert Shadow(name, scheduler).ttft(plan, FREE, 3, 0.0) == other.ttft


def test_without_a_name_or_where_the_client_decides_there_is_no_shadow() -> None:
    scheduler, plan = planned(Schedule())
    assert Shadow("", scheduler).ttft(plan, FREE, 3, 0.0) is None
    forced = scheduler.admission.forced("1,2", 1000, VIEW, FREE, scheduler.capacity_policy)
    assert Shadow("loongserve", scheduler).ttft(forced, FREE, 3, 0.0) is None


def test_a_shadow_that_has_no_room_or_no_group_promises_nothing() -> None:
    scheduler, plan = planned(Schedule())
    assert Shadow("fixed-sp:8", scheduler).ttft(plan, FREE, 3, 0.0) is None
    few = dict.fromkeys("abcd", 30_000)
    scheduler, plan = planned(Schedule(policy="fixed-sp:4"), few)
    assert Shadow("fixed-sp:1", scheduler).ttft(plan, few, 3, 0.0) is None
    assert Shadow("cdsp", scheduler).ttft(plan, few, 3, 0.0) is not None


def test_a_size_that_the_latency_model_does_not_know_stops_the_start() -> None:
    scheduler, _ = planned(Schedule())
    with pytest.raises(ConfigError, match=r"^router\.shadow: .*the latency model knows the sizes"):
        Shadow("fixed-sp:3", scheduler)
    with pytest.raises(ConfigError, match=r"^router\.shadow: "):
        Mesh(shadow="fixed-sp:3")


def test_the_shadow_changes_no_plan_and_is_told_with_it() -> None:
    told = {}
    for name in ("", "fixed-sp:1"):
        mesh = Mesh(num_prefill=2, total=60_000, shadow=name)
        mesh.submit(length=20_000)
        mesh.router.tell(0.0)
        [(_, message)] = mesh.sent_of(Events)
        [event] = [one for one in message.events if isinstance(one, Planned)]
        told[name] = event
    assert told[""].shadow is None
    assert told["fixed-sp:1"].shadow == pytest.approx(MODEL.predict(1, 0, 20_000))
    assert told["fixed-sp:1"].ttft == told[""].ttft
    assert told["fixed-sp:1"].chunks == told[""].chunks
