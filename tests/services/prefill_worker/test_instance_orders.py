"""Whatever happens to an instance in whatever order, nothing is left of it and nothing freed twice.

The hands keep real books of slots. The router is one that sends everything in any order, again
and again, dies and changes its mind.
"""

import random
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import structlog
from msgspec import structs

from common.config import Config, ModelConfig, PrefillConfig
from common.errors import Aborted, LinkTimeout, OutOfPages, RequestFailed
from common.messages import (
    Cancel,
    ControlMessage,
    EndOfRequest,
    Grant,
    Handshake,
    KvAck,
    KvLayout,
    Peer,
    Release,
    RunChunk,
    Scored,
    Skip,
    Token,
    Welcome,
)
from common.metrics import Metrics
from common.pages import Owner, PagePool
from common.scores import Scores
from common.service import Process
from services.prefill_worker.hands import ChunkResult, Moments, Slots, Work
from services.prefill_worker.holdings import Holdings
from services.prefill_worker.instance import Instance
from services.prefill_worker.plan import me, owner_of
from services.prefill_worker.send_manager import SendManager
from services.prefill_worker.transfer import Parcel
from tests.services.prefill_worker.plans import plan, run_chunk

LAYOUT = KvLayout(2, 2, 4, "float32")
CONFIG = Config(
    model=ModelConfig(path="/m", name="m"), prefill=PrefillConfig(window=2, transfer_timeout=10.0)
)
PLANS = [plan((8, 1)), plan((8, 1), (8, 1)), plan((8, 1), (20, 2)), plan((8, 2), (9, 2), (1, 2))]
SCORES = Scores(1, np.zeros(2, np.float32), np.zeros((2, 0), np.int32), np.zeros((2, 0)))
ERRORS = [OutOfPages("full"), LinkTimeout("late"), RequestFailed("no"), Aborted("rank 1 has left")]


class World:
    """An instance with its mesh, its clock, its hands and its router."""

    def __init__(self) -> None:
        log = structlog.make_filtering_bound_logger(50)(None, [], {})
        peer = Peer("m0", 1, "tcp://127.0.0.1:1")
        self.process = Process(CONFIG, self, self, Metrics(), log, peer, "node-0")
        self.instance = Instance(self.process, SendManager("kv", LAYOUT, CONFIG), self)
        self.holdings = Holdings(PagePool(64))
        self.time = 0.0
        self.epoch, self.num_turns = 1, 0
        self.runs: list[RunChunk] = []
        self.ended: set[Owner] = set()
        """What nothing more may be sent of."""
        self.silent: set[str] = set()
        """Requests of former lives, of which nothing may be said."""
        self.busy: RunChunk | None = None
        self.layer: int | None = None
        self.started: set[Owner] = set()
        self.released: Counter[Owner] = Counter()
        self.num_said = 0

    # Mesh, clock and hands

    def now(self) -> float:
        return self.time

    def wall(self) -> float:
        return 1000.0 + self.time

    def send(self, endpoint: str, message: ControlMessage) -> None:
        self.num_said += 1
        token = getattr(message, "token", message)
        assert getattr(token, "request", "") not in self.silent
        sender = message.sender if isinstance(message, Handshake) else message
        now = self.process.peer.incarnation
        # A Release names the life of its target.
        assert isinstance(message, Release) or getattr(sender, "incarnation", now) == now

    def start(self, work: Work, instance: Instance) -> None:
        assert self.busy is None
        assert owner_of(work.run) not in self.ended
        self.busy, self.layer = work.run, None
        self.started.add(owner_of(work.run))

    def abort(self, owner: Owner) -> None:
        assert self.busy is not None
        assert owner_of(self.busy) == owner

    def submit(self, parcel: Parcel) -> None:
        self.num_said += 1
        message = parcel.message
        assert Owner(message.request, message.attempt) not in self.ended
        assert message.incarnation == self.process.peer.incarnation

    def release(self, owner: Owner) -> None:
        assert self.busy is None or owner_of(self.busy) != owner
        self.released[owner] += 1
        self.holdings.release(*owner)

    def slots(self) -> Slots:
        books = self.holdings
        return Slots(books.total_slots, books.free_slots, books.held())

    # What may happen; `pick` says to which of those that it may happen to

    def submit_request(self, pick: int) -> None:
        chunks, request = PLANS[pick % len(PLANS)], f"r{len(self.runs)}"
        for index in range(len(chunks)):
            self.num_turns += 1
            run = run_chunk(chunks, index, 0, request=request, epoch=self.epoch)
            run = structs.replace(run, prompt_logprobs=pick // 4 % 2 - 1)
            member = structs.replace(run.members[0], incarnation=self.process.peer.incarnation)
            members = (member, *run.members[1:])
            self.runs.append(structs.replace(run, turn=self.num_turns, members=members))

    def deliver(self, pick: int) -> None:
        """The turn that is missing, or any."""
        missing = self.instance.facts().received_through - self.num_turns
        if self.runs:
            place = missing if pick % 2 and missing else -1 - pick // 2 % len(self.runs)
            run = self.runs[place]
            self.instance.receive(run, (bytes(4 * run.chunks[run.index].length),))

    def skip(self, pick: int) -> None:
        if self.num_turns:
            turn = 1 + pick % self.num_turns
            self.instance.receive(Skip(self.process.peer.incarnation, self.epoch, turn))

    def end(self, pick: int) -> None:
        if self.runs:
            owner = owner_of(self.runs[-1 - pick // 3 % len(self.runs)])
            self.ended.add(owner)
            ends = [EndOfRequest(*owner, 0, "abort"), EndOfRequest(*owner, 1, "stop")]
            self.instance.receive([Cancel(*owner), *ends][pick % 3])

    def answer(self, pick: int) -> None:
        """A gateway has scores."""
        if self.runs:
            owner = owner_of(self.runs[-1 - pick % len(self.runs)])
            self.instance.receive(Scored(*owner, SCORES.start))

    def grant(self, pick: int) -> None:
        if self.runs:
            run = self.runs[-1 - pick // 2 % len(self.runs)]
            self.instance.receive(Grant(*owner_of(run), run.index, 0, 0, 1 + pick % 2))

    def ack(self, pick: int) -> None:
        if self.runs:
            run = self.runs[-1 - pick // 6 % len(self.runs)]
            self.instance.on_ack(KvAck(*owner_of(run), run.index, 0, pick % 3, 1 + pick // 3 % 2))

    def take(self, pick: int) -> None:
        """Decode takes whatever of a chunk is ready."""
        if self.runs:
            run = self.runs[-1 - pick // 2 % len(self.runs)]
            place, generation = (*owner_of(run), run.index, 0), 1 + pick % 2
            self.instance.receive(Grant(*place, 0, generation))
            for layer in range(LAYOUT.num_layers + 1):
                self.instance.on_ack(KvAck(*place, layer, generation))

    def compute(self, pick: int) -> None:
        """Slots, then one layer after the other, then the end."""
        run = self.busy
        if run is None:
            return
        if self.layer is None:
            self._open(run)
        elif self.layer < LAYOUT.num_layers:
            self.layer += 1
            spans = self.holdings.spans(*owner_of(run), run.index)
            self.instance.on_layer(run, self.layer - 1, spans)
        else:
            self.busy = None
            first = Token(*owner_of(run), 0, 7, finish="stop" if pick % 3 == 0 else None)
            is_last = run.index == len(run.chunks) - 1
            moments = Moments(self.time, *3 * [self.time])
            scores = (SCORES,) if run.prompt_logprobs >= 0 else ()
            result = ChunkResult(first if is_last else None, 1.0, 0.0, 0.0, 0.0, moments)
            self.instance.on_done(run, replace(result, scores=scores))

    def _open(self, run: RunChunk) -> None:
        try:
            self.holdings.open(run)
        except (OutOfPages, RequestFailed):
            self.fail(0)
        else:
            self.layer = 0
            self.instance.on_ready(run)

    def fail(self, pick: int) -> None:
        run, self.busy = self.busy, None
        if run is not None:
            self.holdings.release(*owner_of(run))
            self.instance.on_failed(run, ERRORS[pick % len(ERRORS)])

    def wait(self, pick: int) -> None:
        self.time += (0.3, 2.1, 10.1)[pick % 3]
        self.instance.advance()

    def expire(self, pick: int) -> None:
        self.instance.expire(61.0)

    def enter(self, pick: int) -> None:
        self.epoch += 1
        self.num_turns = 0
        self.instance.welcome(Welcome(self.epoch, self.process.peer.incarnation))

    def fence(self, pick: int) -> None:
        self.num_turns = 0
        self.silent |= {run.request for run in self.runs}
        self.ended |= {owner_of(run) for run in self.runs}
        self.instance.fence()
        self.process.renew()

    # How it ends

    def finish(self) -> None:
        """All turns arrive, all chunks end, the router ends all attempts."""
        life = (self.epoch, self.process.peer.incarnation)
        for run in [run for run in self.runs if (run.epoch, me(run).incarnation) == life]:
            self.instance.receive(run, (bytes(4 * run.chunks[run.index].length),))
        while self.busy is not None:
            self.compute(1)
        self.wait(0)
        self.wait(1)
        for owner in {owner_of(run) for run in self.runs}:
            self.instance.receive(EndOfRequest(*owner, 0, "abort"))


ACTIONS = {
    "submit_request": 4,
    "deliver": 8,
    "skip": 1,
    "end": 2,
    "answer": 1,
    "grant": 2,
    "ack": 4,
    "take": 4,
    "compute": 16,
    "fail": 1,
    "wait": 2,
    "expire": 0.3,
    "enter": 0.3,
    "fence": 0.3,
}


def check_at_rest(world: World) -> None:
    """Nothing is left, and nothing more is said."""
    assert world.holdings.held() == ()
    assert world.holdings.free_slots == world.holdings.total_slots
    facts = world.instance.facts()
    assert (facts.running, facts.held) == (None, ())
    assert facts.received_through == facts.finished_through == world.num_turns
    assert set(world.released) >= world.started
    assert world.instance._live == {}
    assert len(world.instance._sends) == 0
    world.num_said = 0
    world.wait(2)
    assert world.num_said == 0


@pytest.mark.parametrize("seed", range(300))
def test_whatever_happens_everything_is_let_go_of_exactly_once(seed: int) -> None:
    rng, world = random.Random(seed), World()
    world.enter(0)
    for name in rng.choices(list(ACTIONS), list(ACTIONS.values()), k=200):
        getattr(world, name)(rng.randrange(256))
        assert max(world.released.values(), default=0) <= 1
    world.finish()
    check_at_rest(world)
