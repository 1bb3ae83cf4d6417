from statistics import median

import pytest
import structlog

from common.latency import LatencyModel
from common.messages import (
    Cancel,
    ChunkDone,
    EndOfRequest,
    FirstToken,
    Leave,
    Ready,
    Released,
    RunChunk,
    Token,
)
from services.router.latency_store import LatencyStore, key_of
from services.router.speeds import PROBE
from tests.services.router.mesh import MODEL, Mesh, hello

A100 = LatencyModel.load("a100-llama3-8b")
ON = {"calibrate_seconds": 20.0, "learn": True}


class Workers:
    """A mesh whose instances compute what they are given, each at its own speed."""

    def __init__(self, num_prefill=2, store=None, **router):
        self.mesh = Mesh(num_prefill, store=store, total=65536, **(ON | router))
        self.speeds = dict.fromkeys(self.mesh.prefill, 1.0)
        self.done = []
        """Every chunk and the seconds that it took."""

    @property
    def text(self):
        return self.mesh.router.tuning.text()

    def beat(self):
        self.mesh.beats(*self.mesh.router.books.requests.owners)

    def work(self):
        """All chunks that are on their way are computed, one after the other."""
        sent, self.mesh.sent = self.mesh.sent, []
        parts = {}
        for to, message, _ in sent:
            if isinstance(message, RunChunk):
                parts.setdefault(message.seq, []).append((to[3:], message))
        for _, group in sorted(parts.items()):
            self._compute(group)
        return len(parts)

    def _compute(self, group):
        mesh, (_, run) = self.mesh, group[0]
        chunk = run.chunks[run.index]
        usual = A100.predict(chunk.size, chunk.history, chunk.length)
        own = {name: usual * self.speeds[name] for name, _ in group}
        seconds = max(own.values())
        mesh.now += seconds
        self.done.append((run, seconds))
        for name, part in group:
            mesh.give(Ready(name, 1, part.seq, part.turn))
        is_last = run.index == len(run.chunks) - 1
        for name, part in group:
            place = (name, 1, part.seq, part.turn, run.request, run.attempt, run.index)
            mesh.give(ChunkDone(*place, own[name], seconds - own[name], 0.0, 0.0, 0, 0))
        if is_last:
            mesh.give(FirstToken(Token(run.request, 1, 0, 5, finish="length"), run.gateway))
            mesh.give(EndOfRequest(run.request, 1, 1, "length", f"in-{group[0][0]}"))
        for name, _ in group if is_last else ():
            mesh.give(Released(name, 1, run.request, 1))

    def calibrate(self):
        for _ in range(200):
            self.beat()
            self.work()
            if "calibrating" not in self.text and "calibrated yet" not in self.text:
                return
        raise AssertionError(self.text)

    def ask(self, name, length, **changes):
        self.mesh.submit(name, length, **changes)
        self.beat()
        self.work()


def test_an_idle_mesh_measures_itself_once_and_forgets_the_prompts():
    workers = Workers()
    for name in workers.speeds:
        workers.speeds[name] = 1.5
    workers.calibrate()
    tuning, books = workers.mesh.router.tuning, workers.mesh.router.books
    assert tuning.text().startswith("calibrated in ")
    assert sum(seconds for _, seconds in workers.done) < 20.0
    assert {run.members[0].name for run, _ in workers.done} == {"p0", "p1"}
    assert {len(run.members) for run, _ in workers.done} == {1, 2}
    scheduler = workers.mesh.router._planning.scheduler
    assert scheduler.model is tuning.learning.model
    for size in (1, 2, 16):
        assert scheduler.model.predict(size, 5000, 20_000) == pytest.approx(
            1.5 * A100.predict(size, 5000, 20_000), rel=1e-3
        )
    assert books.quiescent()
    assert workers.mesh.router.num_ignored == 0
    for _ in range(20):
        workers.beat()
        assert workers.work() == 0


def test_nothing_is_measured_where_that_is_switched_off():
    workers = Workers(calibrate_seconds=0.0)
    for _ in range(20):
        workers.beat()
    assert workers.work() == 0
    assert workers.text == "as given"


def test_nothing_is_measured_while_somebody_is_missing():
    workers = Workers()
    workers.mesh.give(Leave("b", 1))
    for _ in range(20):
        workers.mesh.now += 0.5
        workers.mesh.router.tick(workers.mesh.now)
    assert workers.work() == 0


def test_a_request_ends_the_prompt_that_runs_and_no_other_comes_before_its_end():
    workers = Workers()
    mesh = workers.mesh
    workers.beat()
    ((_, ordered),) = mesh.sent_of(RunChunk)
    assert ordered.gateway.inbox == "in-router"
    mesh.sent.clear()
    mesh.submit("r", 1000)
    cancelled = {to for to, message in mesh.sent_of(Cancel) if message.request == ordered.request}
    assert {to for to in cancelled if to.startswith("in-p")} == {"in-p1"}
    runs = [run for _, run in mesh.sent_of(RunChunk)]
    assert {run.request for run in runs} == {"r"}
    (task, *_) = mesh.router.books.pool.tasks
    assert task.owner.request == "r"
    for _ in range(8):
        workers.beat()
        mesh.give(Released("p1", 1, ordered.request, 1))
    assert {run.request for _, run in mesh.sent_of(RunChunk)} == {"r"}
    workers.work()
    assert "calibrating, 0 of" in workers.text
    workers.calibrate()
    assert workers.text.startswith("calibrated in ")


def test_the_router_s_own_prompts_are_no_strays():
    workers = Workers()
    workers.beat()
    assert workers.mesh.sent_of(RunChunk)
    for _ in range(6):
        workers.beat()
    assert [one.owner.request for one in workers.mesh.router.books.requests.live]


def test_what_is_measured_is_kept_and_found_by_the_next_router(tmp_path):
    store = LatencyStore(tmp_path, structlog.get_logger())
    first = Workers(store=store)
    first.speeds = dict.fromkeys(first.speeds, 1.5)
    first.calibrate()
    path = tmp_path / f"{key_of(hello('prefill-worker', 'p0'), A100)}.toml"
    assert f"# Prefill seconds of {MODEL.name} in float32" in path.read_text()
    again = Workers(store=store)
    for _ in range(20):
        again.beat()
        assert again.work() == 0
    assert again.text == "measured in an earlier life"
    model = again.mesh.router._planning.scheduler.model
    assert model.curves == first.mesh.router.tuning.learning.model.curves
    before = path.read_text()
    again.speeds = dict.fromkeys(again.speeds, 3.0)
    for number in range(20):
        again.ask(f"r{number}", 8000)
    again.mesh.now += 60.0
    for _ in range(3):
        again.beat()
    assert path.read_text() != before
    again.mesh.router.tick(again.mesh.now)


def test_the_model_is_learnt_from_requests_and_plans_keep_their_predictions():
    workers = Workers(calibrate_seconds=0.0)
    workers.speeds = dict.fromkeys(workers.speeds, 1.5)
    errors = []
    for number in range(40):
        workers.ask(f"r{number}", 2000 + 777 * number)
        run, seconds = workers.done[-1]
        errors.append(abs(run.predicted / seconds - 1))
    assert median(errors[:3]) > 0.3
    assert median(errors[-20:]) < 0.02
    assert "measured/predicted SP" in workers.text


def test_without_learning_the_model_stays_and_drift_is_told():
    workers = Workers(calibrate_seconds=0.0, learn=False)
    workers.speeds = dict.fromkeys(workers.speeds, 1.5)
    for number in range(20):
        workers.ask(f"r{number}", 8000, forced_plan="1")
    assert workers.text == "as given; measured/predicted SP 1 1.50"
    assert workers.mesh.router._planning.scheduler.model.curves == A100.curves


def test_a_slow_instance_is_left_out_and_tried_until_it_has_recovered():
    workers = Workers(3, calibrate_seconds=0.0)
    workers.speeds["p1"] = 5.0
    for number in range(30):
        workers.ask(f"r{number}", 500, forced_plan="1")
        for other in range(2):
            workers.mesh.submit(f"r{number}-{other}", 500, forced_plan="1")
        workers.beat()
        workers.work()
        if "slow" in workers.text:
            break
    assert "left out as slow: p1 5.0 times" in workers.text
    slow = [run for run, _ in workers.done if run.members[0].name == "p1"]
    assert len(slow) == 3
    count = len(workers.done)
    for number in range(6):
        workers.ask(f"later{number}", 500, forced_plan="1,2")
    later = [run for run, _ in workers.done[count:]]
    assert not any(member.name == "p1" for run in later for member in run.members)
    workers.speeds["p1"] = 1.0
    workers.mesh.now += PROBE
    for name in ("g", "b", "d", *workers.mesh.prefill):
        workers.mesh.router.books.registry.find(name).seen = workers.mesh.now
    workers.beat()
    workers.work()
    workers.beat()
    assert "slow" not in workers.text
    (probe,) = [run for run, _ in workers.done[count:] if run.request.startswith("tetris")]
    assert probe.members[0].name == "p1"


def test_a_request_that_needs_the_slow_instance_gets_it():
    workers = Workers(2, calibrate_seconds=0.0)
    workers.speeds["p1"] = 5.0
    while "slow" not in workers.text:
        for number in range(2):
            workers.mesh.submit(f"r{len(workers.done)}-{number}", 500, forced_plan="1")
        workers.beat()
        workers.work()
    workers.ask("both", 500, forced_plan="2")
    assert len(workers.done[-1][0].members) == 2
