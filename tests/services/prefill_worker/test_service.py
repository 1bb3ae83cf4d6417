"""Prefill, broker and decode on one event loop and real sockets, driven by hand-made chunks."""

import asyncio
import threading
import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Any, cast

import numpy as np
import pytest
import structlog
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from common import failpoints
from common.clock import MonotonicClock
from common.config import Config, DecodeConfig, MeshConfig, ModelConfig, PrefillConfig
from common.errors import Aborted
from common.mesh import Mesh
from common.messages import (
    BrokerFacts,
    Cancel,
    Chunk,
    ChunkDone,
    ControlMessage,
    Ending,
    EndOfRequest,
    Facts,
    Failed,
    FirstToken,
    Heartbeat,
    Hello,
    Joining,
    Member,
    Peer,
    PrefillFacts,
    PromptScores,
    Ready,
    Released,
    RunChunk,
    Sampling,
    Scored,
    Target,
    Times,
    Token,
    TokenBatch,
    Welcome,
)
from common.metrics import Metrics
from common.service import Process, Serve
from common.zmq_transport import ZmqTransport
from services.decode_worker.service import serve as serve_decode
from services.kv_transfer.service import serve as serve_broker
from services.prefill_worker.hands import Work
from services.prefill_worker.service import EngineThread
from services.prefill_worker.service import serve as serve_prefill
from tests.services.prefill_worker.plans import plan, run_chunk

SECONDS = 60.0
SERVICES: dict[str, Serve] = {
    "prefill-0": serve_prefill,
    "prefill-1": serve_prefill,
    "decode-0": serve_decode,
    "broker-0": serve_broker,
}


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> str:
    torch.manual_seed(3)
    torch.set_num_threads(1)
    config = LlamaConfig(
        vocab_size=101,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        tie_word_embeddings=False,
        eos_token_id=None,
        bos_token_id=None,
    )
    path = str(tmp_path_factory.mktemp("model"))
    LlamaForCausalLM(config).save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def greedy(path: str) -> Callable[[np.ndarray, int], list[int]]:
    """What transformers itself says to a prompt."""
    causal = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()

    @torch.inference_mode()
    def answer(ids: np.ndarray, count: int) -> list[int]:
        tokens = [int(token) for token in ids]
        for _ in range(count):
            tokens.append(int(causal(torch.tensor([tokens])).logits[0, -1].argmax()))
        return tokens[len(ids) :]

    return answer


def prompt(length: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 101, length).astype("<i4")


class Driver:
    """Router and gateway in one: sends chunks, and notes all that comes back."""

    def __init__(self, process: Process) -> None:
        self.mesh, self.peer = process.mesh, process.peer
        self.hellos: dict[str, Hello] = {}
        self.facts: dict[str, Facts] = {}
        self.notes: list[ControlMessage] = []
        self.tokens: defaultdict[str, dict[int, Token]] = defaultdict(dict)
        self.turns: defaultdict[str, int] = defaultdict(int)
        self.times: dict[str, Times | None] = {}
        self.joined: dict[str, Joining] = {}
        self._news = asyncio.Event()

    async def listen(self) -> None:
        while True:
            message, _ = await self.mesh.receive()
            self._note(message)
            self._news.set()

    def _note(self, message: ControlMessage) -> None:
        match message:
            case Hello(peer=peer):
                self.hellos[peer.name] = message
                self.mesh.send(peer.inbox, Welcome(1, peer.incarnation))
            case Heartbeat(name=name, facts=facts):
                self.facts[name] = facts
            case FirstToken(token=token, times=times):
                self.times[token.request] = times
                self.tokens[token.request][token.index] = token
            case TokenBatch(tokens=tokens, joined=joined):
                self.joined.update({one.request: one for one in joined})
                for token in tokens:
                    self.tokens[token.request][token.index] = token
            case EndOfRequest() | Failed():
                self.notes.append(message)
                reason = "error" if isinstance(message, Failed) else message.reason
                end = EndOfRequest(message.request, message.attempt, 0, reason)
                self.mesh.send(message.sender or "", end)
            case _:
                self.notes.append(message)

    async def until(self, is_true: Callable[[], bool]) -> None:
        async with asyncio.timeout(SECONDS):
            while not is_true():
                self._news.clear()
                await self._news.wait()

    def scores(self, request: str) -> list[PromptScores]:
        return [n for n in self.notes if isinstance(n, PromptScores) and n.request == request]

    def noted(self, kind: type, request: str) -> int:
        return sum(isinstance(note, kind) and note.request == request for note in self.notes)

    def submit(
        self,
        request: str,
        ids: np.ndarray,
        chunks: list[Chunk],
        ending: Ending,
        skip_turns: int = 0,
        prompt_logprobs: int = -1,
    ) -> None:
        """Send a request's chunks to all members, leaving out some turns before them."""
        hellos = [self.hellos[f"prefill-{rank}"] for rank in range(chunks[-1].size)]
        members = tuple(
            Member(h.peer.name, h.peer.incarnation, h.peer.inbox, h.ring or "", h.balance or "")
            for h in hellos
        )
        for index, chunk in enumerate(chunks):
            stop = chunk.history + chunk.length
            frame = ids[chunk.history : stop + 1].tobytes()
            for rank in range(chunk.size):
                name = members[rank].name
                self.turns[name] += 1 + (skip_turns if index == 0 else 0)
                run = RunChunk(
                    epoch=1,
                    seq=self.turns["prefill-0"],
                    turn=self.turns[name],
                    request=request,
                    attempt=1,
                    index=index,
                    chunks=tuple(chunks),
                    members=members,
                    rank=rank,
                    target=self._target(),
                    gateway=self.peer,
                    router=self.peer.inbox,
                    num_emitted=0,
                    reserve=len(ids) + ending.max_tokens,
                    sampling=Sampling(temperature=0.0),
                    ending=ending,
                    predicted=0.0,
                    prompt_logprobs=prompt_logprobs,
                )
                self.mesh.send(members[rank].inbox, run, frame)

    def _target(self) -> Target:
        decode, broker = self.hellos["decode-0"], self.hellos["broker-0"]
        peer = decode.peer
        link, inbox = decode.link or "", broker.peer.inbox
        return Target(peer.name, peer.incarnation, peer.inbox, link, decode.num_backends, inbox)

    def ids(self, request: str) -> list[int]:
        tokens = self.tokens[request]
        return [tokens[index].id for index in sorted(tokens)]

    def is_finished(self, request: str) -> bool:
        return any(token.finish for token in self.tokens[request].values())

    def is_at_rest(self) -> bool:
        """Whether no service holds anything, by its own heartbeat."""
        prefill = [self.facts.get(name) for name in ("prefill-0", "prefill-1")]
        is_free = all(
            isinstance(facts, PrefillFacts)
            and facts.free_slots == facts.total_slots
            and not facts.held
            for facts in prefill
        )
        broker = self.facts.get("broker-0")
        return is_free and isinstance(broker, BrokerFacts) and broker.lent == broker.waiting == 0


def process(name: str, path: str, router: str) -> Process:
    mesh = MeshConfig(router=router, heartbeat=0.05, resend=0.1)
    config = Config(
        model=ModelConfig(path=path, name="tiny"),
        mesh=mesh,
        prefill=PrefillConfig(kv_tokens=1024, step_timeout=20.0, start_timeout=20.0),
        decode=DecodeConfig(kv_tokens=1024, backends=1),
    )
    clock, metrics = MonotonicClock(), Metrics()
    transport = ZmqTransport("tcp://127.0.0.1:*", 1 << 20)
    inbox = Mesh(transport, mesh, metrics, clock)
    log = structlog.make_filtering_bound_logger(50)(None, [], {})
    return Process(config, inbox, clock, metrics, log, Peer(name, 1, inbox.inbox), "node-0")


@asynccontextmanager
async def running(path: str) -> AsyncIterator[Driver]:
    """All services up and welcomed."""
    async with AsyncExitStack() as stack:
        home = process("router", path, "tcp://127.0.0.1:1")
        others = {name: process(name, path, home.peer.inbox) for name in SERVICES}
        for each in (home, *others.values()):
            stack.push_async_callback(each.mesh.close)
        driver = Driver(home)
        async with asyncio.TaskGroup() as group:
            runs: list[Coroutine[None, None, None]] = [driver.listen()]
            runs += [each.mesh.run() for each in (home, *others.values())]
            runs += [serve(others[name]) for name, serve in SERVICES.items()]
            tasks = [group.create_task(run) for run in runs]
            await driver.until(lambda: len(driver.facts) == len(SERVICES))
            yield driver
            for task in tasks:
                task.cancel()


PLANS = [
    plan((37, 1)),
    plan((40, 2)),
    plan((17, 1), (30, 2)),
    plan((5, 1), (20, 1), (9, 2), (1, 2)),
]


def test_tokens_of_several_requests_are_those_of_transformers(
    path: str, greedy: Callable[[np.ndarray, int], list[int]]
) -> None:
    prompts = [prompt(chunks[-1].history + chunks[-1].length, i) for i, chunks in enumerate(PLANS)]

    async def scenario() -> None:
        async with running(path) as driver:
            for i, (ids, chunks) in enumerate(zip(prompts, PLANS, strict=True)):
                driver.submit(f"r{i}", ids, chunks, Ending(max_tokens=6))
            await driver.until(lambda: all(driver.is_finished(f"r{i}") for i in range(len(PLANS))))
            await driver.until(driver.is_at_rest)
            for i, (ids, chunks) in enumerate(zip(prompts, PLANS, strict=True)):
                assert driver.ids(f"r{i}") == greedy(ids, 6)
                assert driver.noted(Released, f"r{i}") == chunks[-1].size
                assert driver.noted(Failed, f"r{i}") == 0
                check_moments(driver, f"r{i}", len(chunks))
            num_runs = sum(chunk.size for chunks in PLANS for chunk in chunks)
            assert sum(isinstance(note, Ready) for note in driver.notes) == num_runs
            assert driver.facts["prefill-0"].finished_through == driver.turns["prefill-0"]

    asyncio.run(scenario())


def check_moments(driver: Driver, request: str, num_chunks: int) -> None:
    """From the first chunk's arrival to the first decode step; on one machine they are in order."""
    times, joined = driver.times[request], driver.joined[request]
    assert times is not None and len(times.chunks) == num_chunks
    moments = [times.chunks[0].arrived]
    for chunk in times.chunks:
        assert chunk.arrived <= chunk.begun
        assert 0 <= chunk.balance <= chunk.ended - chunk.gathered
        moments += [chunk.begun, chunk.gathered, chunk.ended]
    moments.append(times.sampled)
    assert moments == sorted(moments)
    assert joined.committed <= joined.begun


def test_a_request_that_ends_with_token_0_is_not_decoded(
    path: str, greedy: Callable[[np.ndarray, int], list[int]]
) -> None:
    ids = prompt(30)

    async def scenario() -> None:
        async with running(path) as driver:
            driver.submit("a", ids, plan((10, 1), (20, 2)), Ending(max_tokens=1))
            await driver.until(lambda: driver.noted(Released, "a") == 2)
            await driver.until(driver.is_at_rest)
            assert driver.ids("a") == greedy(ids, 1)
            assert driver.tokens["a"][0].finish == "length"
            ends = [note for note in driver.notes if isinstance(note, EndOfRequest)]
            assert {end.sender for end in ends} <= {h.peer.inbox for h in driver.hellos.values()}
            assert {(end.request, end.num_tokens, end.reason) for end in ends} == {
                ("a", 1, "length")
            }

    asyncio.run(scenario())


@pytest.mark.parametrize("max_tokens", [1, 4])
def test_a_prompt_is_scored_until_the_gateway_has_it_also_when_token_0_ends_the_request(
    path: str, greedy: Callable[[np.ndarray, int], list[int]], max_tokens: int
) -> None:
    ids = prompt(300)
    causal = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
    with torch.inference_mode():
        logprobs = causal(torch.from_numpy(ids.astype(np.int64))[None]).logits[0].log_softmax(-1)

    async def scenario() -> None:
        async with running(path) as driver:
            driver.submit("a", ids, plan((100, 1), (200, 2)), Ending(max_tokens), 0, 1)

            def all_came_twice() -> bool:
                count = Counter(message.start for message in driver.scores("a"))
                return len(count) == 6 and min(count.values()) > 1

            await driver.until(all_came_twice)
            await driver.until(lambda: driver.is_finished("a") and driver.noted(Released, "a") == 2)
            assert driver.ids("a") == greedy(ids, max_tokens)
            unique = {message.start: message for message in driver.scores("a")}
            for message in unique.values():
                driver.mesh.send(message.sender, Scored("a", 1, message.start))
            positions = []
            for start, message in sorted(unique.items()):
                for position, score in enumerate(message.scores, start):
                    positions.append(position)
                    row = logprobs[position - 1]
                    assert score.logprob == pytest.approx(float(row[ids[position]]), abs=1e-4)
                    assert [one.id for one in score.top] == [int(row.argmax())]
            assert positions == list(range(1, 300))
            # once the worker has all answers, another prompt's scores come alone
            driver.submit("b", prompt(20), plan((20, 1)), Ending(1), 0, 0)
            await driver.until(lambda: driver.noted(PromptScores, "b") > 0)
            driver.notes.clear()
            await driver.until(lambda: driver.noted(PromptScores, "b") > 2)
            assert driver.scores("a") == []

    asyncio.run(scenario())


def test_a_cancelled_request_is_released_without_being_computed(path: str) -> None:
    async def scenario() -> None:
        async with running(path) as driver:
            # The turn before it is missing, so that the chunk cannot have begun.
            driver.submit("a", prompt(30), plan((30, 1)), Ending(max_tokens=4), skip_turns=1)
            inbox = driver.hellos["prefill-0"].peer.inbox
            driver.mesh.send(inbox, Cancel("a", 1))
            await driver.until(lambda: driver.noted(Released, "a") == 1)
            await driver.until(driver.is_at_rest)
            assert driver.tokens == {}

    asyncio.run(scenario())


def test_a_prompt_without_room_fails_and_the_next_request_is_served(
    path: str, greedy: Callable[[np.ndarray, int], list[int]]
) -> None:
    async def scenario() -> None:
        async with running(path) as driver:
            driver.submit("a", prompt(1100), plan((1100, 1)), Ending(max_tokens=4))
            driver.submit("b", prompt(20), plan((20, 1)), Ending(max_tokens=4))
            await driver.until(lambda: driver.is_finished("b"))
            assert driver.ids("b") == greedy(prompt(20), 4)
            failures = [note for note in driver.notes if isinstance(note, Failed)]
            assert {(one.request, one.retryable) for one in failures} == {("a", True)}
            assert driver.noted(Released, "a") == 1

    asyncio.run(scenario())


def test_a_cancelled_request_is_left_in_the_middle_of_a_chunk_by_its_whole_group(
    path: str, greedy: Callable[[np.ndarray, int], list[int]]
) -> None:
    async def scenario() -> None:
        async with running(path) as driver:
            with failpoints.hooked("chunk.layer", partial(time.sleep, 0.2)):
                driver.submit("a", prompt(400), plan((400, 2)), Ending(max_tokens=4))
                await driver.until(lambda: sum(isinstance(n, Ready) for n in driver.notes) == 2)
                driver.mesh.send(driver.hellos["prefill-0"].peer.inbox, Cancel("a", 1))
                await driver.until(lambda: driver.noted(Released, "a") == 2)
            assert driver.noted(ChunkDone, "a") == 0
            failures = [note for note in driver.notes if isinstance(note, Failed)]
            assert {(one.what, one.why, one.retryable) for one in failures} == {
                ("prefill of chunk 0 at prefill-1", "rank 0 has left the group", True)
            }
            driver.submit("b", prompt(20), plan((20, 2)), Ending(max_tokens=4))
            await driver.until(lambda: driver.is_finished("b"))
            assert driver.ids("b") == greedy(prompt(20), 4)
            await driver.until(driver.is_at_rest)

    asyncio.run(scenario())


def test_a_thread_that_is_stopped_leaves_its_chunk_at_once_and_in_silence() -> None:
    ready, stopped, heard = threading.Event(), threading.Event(), []

    class Waiting:
        """An engine whose group does not come; also the listener."""

        def run(self, *_: object) -> None:
            ready.set()
            assert stopped.wait(SECONDS)
            raise Aborted("this member ends")

        def stop(self) -> None:
            stopped.set()

        def close(self) -> None:
            pass

        def on_failed(self, *_: object) -> None:
            heard.append("failed")

    async def main() -> None:
        engine = cast(Any, Waiting())
        thread = EngineThread(lambda: engine, asyncio.get_running_loop())
        async with asyncio.TaskGroup() as group:
            group.create_task(asyncio.to_thread(thread.run))
            assert await thread.loaded is engine
            run = run_chunk(plan((8, 2)), 0, 0)
            thread.start(Work(run, prompt(8)), engine)
            await asyncio.to_thread(ready.wait, SECONDS)
            thread.stop()
        await asyncio.sleep(0)

    asyncio.run(main())
    assert stopped.is_set()
    assert heard == []
