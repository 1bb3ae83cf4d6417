import asyncio
import io
import json
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import structlog
import uvloop

from common.config import Config, EmulatedConfig, MeshConfig, ModelConfig, RouterConfig
from common.errors import ConfigError
from common.launch import make_process
from common.service import Process
from compose import emulated_workers, restarts
from compose.emulated_workers import Seat, TooManyFailures, seats, serve

CONFIG = Config(
    model=ModelConfig(path="emulated", name="n"),
    router=RouterConfig(latency="a100-llama3-8b"),
    mesh=MeshConfig(drain=5.0),
    emulated=EmulatedConfig(prefill=3, nodes=2, decode=1),
)
NAMES = {"prefill-worker-0", "prefill-worker-1", "prefill-worker-2", "decode-worker-0"}


class Stage:
    """The host's process, and workers that do what a test says instead of joining a router."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.lives: Counter[str] = Counter()
        self.now: dict[str, Process] = {}
        self.log = io.StringIO()
        self.act: Callable[[Process], Awaitable[None]] = self.stay
        for role in ("prefill-worker", "decode-worker"):
            monkeypatch.setitem(emulated_workers.SERVES, role, self._serve)
        monkeypatch.setattr(emulated_workers.logs, "configure", self._logger)
        monkeypatch.setattr(restarts, "DELAYS", (0.0,))

    @staticmethod
    async def stay(worker: Process) -> None:
        await worker.stopping.wait()

    def run(self, scenario: Callable[[Process], Awaitable[None]]) -> Process:
        """The scenario beside the host, until the host ends."""

        async def both() -> Process:
            host = make_process("emulated-workers", CONFIG, self._logger(None))
            try:
                async with asyncio.timeout(20.0), asyncio.TaskGroup() as group:
                    group.create_task(serve(host))
                    group.create_task(scenario(host))
            finally:
                await host.mesh.close()
            return host

        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(both())

    async def until(self, condition: Callable[[], bool]) -> None:
        while not condition():  # noqa: ASYNC110  # nobody tells
            await asyncio.sleep(0.01)

    def events(self, name: str) -> list[dict[str, Any]]:
        lines = [json.loads(line) for line in self.log.getvalue().splitlines()]
        return [line for line in lines if line["event"] == name]

    async def _serve(self, worker: Process, *_: object) -> None:
        self.lives[worker.peer.name] += 1
        self.now[worker.peer.name] = worker
        await self.act(worker)

    def _logger(self, _: object, **context: str) -> Any:
        processors = [
            structlog.processors.ExceptionRenderer(),
            structlog.processors.JSONRenderer(default=str),
        ]
        made = structlog.wrap_logger(structlog.WriteLogger(self.log), processors=processors)
        return made.bind(**context)


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch) -> Stage:
    return Stage(monkeypatch)


def test_instances_are_spread_evenly_over_machines_and_decode_has_its_own() -> None:
    assert list(seats(EmulatedConfig(prefill=3, nodes=2, decode=2))) == [
        Seat("prefill-worker", "prefill-worker-0", "node-0"),
        Seat("prefill-worker", "prefill-worker-1", "node-0"),
        Seat("prefill-worker", "prefill-worker-2", "node-1"),
        Seat("decode-worker", "decode-worker-0", "node-2"),
        Seat("decode-worker", "decode-worker-1", "node-3"),
    ]
    whole = [seat.node for seat in seats(EmulatedConfig(nodes=4, instances_per_node=2, decode=1))]
    assert whole == [f"node-{index // 2}" for index in range(8)] + ["node-4"]


def test_each_worker_is_a_member_of_its_own(stage: Stage) -> None:
    async def scenario(host: Process) -> None:
        await stage.until(lambda: set(stage.now) == NAMES)
        workers = stage.now.values()
        assert len({worker.mesh.inbox for worker in workers} | {host.mesh.inbox}) == 5
        assert len({id(worker.metrics) for worker in workers}) == 4
        assert {worker.config.mesh.name for worker in workers} == NAMES
        host.stopping.set()

    stage.run(scenario)
    assert stage.lives == dict.fromkeys(NAMES, 1)
    assert {line["name"] for line in stage.events("stopped")} == NAMES


def test_who_fails_begins_a_new_life_says_why_and_disturbs_nobody(stage: Stage) -> None:
    async def fail_once(worker: Process) -> None:
        if worker.peer.name == "prefill-worker-1" and stage.lives[worker.peer.name] == 1:
            raise RuntimeError("a bug")
        await stage.stay(worker)

    async def scenario(host: Process) -> None:
        await stage.until(lambda: stage.lives["prefill-worker-1"] == 2 and set(stage.now) == NAMES)
        host.stopping.set()

    stage.act = fail_once
    stage.run(scenario)
    assert stage.lives == {**dict.fromkeys(NAMES, 1), "prefill-worker-1": 2}
    (failed,) = stage.events("failed")
    assert failed["name"] == "prefill-worker-1"
    assert "RuntimeError: a bug" in failed["exception"]
    incarnations = [line["inbox"] for line in stage.events("started") if line["name"][-1] == "1"]
    assert len(set(incarnations)) == 2


def test_who_fails_again_and_again_ends_the_process(stage: Stage) -> None:
    async def fail(worker: Process) -> None:
        if worker.peer.name == "decode-worker-0":
            raise RuntimeError("a bug")
        await stage.stay(worker)

    async def scenario(host: Process) -> None:
        return

    stage.act = fail
    with pytest.raises(ExceptionGroup) as caught:
        stage.run(scenario)
    assert caught.group_contains(TooManyFailures, match="decode-worker-0 fails too often")
    assert stage.lives["decode-worker-0"] == restarts.MOST + 1


def test_a_worker_that_is_refused_ends_the_process_with_the_reason(stage: Stage) -> None:
    async def refused(worker: Process) -> None:
        raise ConfigError("refused by the router: because")

    async def scenario(host: Process) -> None:
        return

    stage.act = refused
    with pytest.raises(ExceptionGroup) as caught:
        stage.run(scenario)
    assert caught.group_contains(ConfigError, match="because")


def test_a_worker_that_has_left_does_not_come_back_and_the_last_one_ends_it(stage: Stage) -> None:
    async def scenario(host: Process) -> None:
        await stage.until(lambda: set(stage.now) == NAMES)
        stage.now["prefill-worker-0"].stopping.set()
        await stage.until(lambda: len(stage.events("stopped")) == 1)
        await asyncio.sleep(0.05)
        assert not stage.now["prefill-worker-1"].drained.is_set()
        for worker in stage.now.values():
            worker.stopping.set()

    host = stage.run(scenario)
    assert not host.stopping.is_set()
    assert stage.lives == dict.fromkeys(NAMES, 1)
