import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from common import failpoints
from common.errors import Aborted, LinkTimeout, OutOfPages, RequestFailed
from common.links.zmq import ZmqLink
from common.messages import Ending, Sampling
from common.sharding import shards
from common.tensor.models import Model, load
from services.prefill_worker import engine as engine_module
from services.prefill_worker.engine import Bounds, Engine, Links
from tests.common.tensor.tiny_models import save, stock
from tests.services.prefill_worker.plans import members_at, plan, run_chunk

CONFIG = LlamaConfig(
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
NUM_LAYERS = CONFIG.num_hidden_layers
POOL_TOKENS = 1024


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    torch.manual_seed(3)
    path = tmp_path_factory.mktemp("model")
    LlamaForCausalLM(CONFIG).save_pretrained(path)
    return str(path)


@pytest.fixture(scope="module")
def model(path):
    return load(path, "float32")


@pytest.fixture(scope="module")
def reference(path):
    """transformers itself: last logits and KV [layers, tokens, G, D] of a prompt."""
    causal = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()

    @torch.inference_mode()
    def answer(ids):
        out = causal(torch.from_numpy(ids.astype(np.int64))[None], use_cache=True)
        layers = out.past_key_values.layers
        keys, values = (
            torch.stack([getattr(layer, name)[0].transpose(0, 1) for layer in layers])
            for name in ("keys", "values")
        )
        return out.logits[0, -1], keys, values

    return answer


@dataclass
class Recording:
    """A model that remembers the logits it gave."""

    model: Model
    layout: object
    logits: list = field(default_factory=list)

    def forward(self, *arguments):
        logits = self.model.forward(*arguments)
        self.logits += [*logits]
        return logits

    def __getattr__(self, name):
        return getattr(self.model, name)


@dataclass
class Group:
    """Four engines, each of which runs its chunks in its own thread."""

    engines: list[Engine]

    def member(self, chunks, rank, ids, **changes):
        """Run all chunks of one member; what each gave."""
        members = members_at(
            [engine.links.ring.endpoint for engine in self.engines],
            [engine.links.balance.endpoint for engine in self.engines],
        )
        results = []
        for index, chunk in enumerate(chunks):
            if rank < chunk.size:
                run = run_chunk(chunks, index, rank, members, **changes)
                own = ids[chunk.history : chunk.history + chunk.length + 1]
                calls: list[object] = []
                result = self.engines[rank].run(
                    run, own, lambda calls=calls: calls.append("ready"), calls.append
                )
                assert calls == ["ready", *range(NUM_LAYERS)]
                results.append(result)
        return results

    def run(self, chunks, ids, **changes):
        ranks = range(max(chunk.size for chunk in chunks))
        with ThreadPoolExecutor(len(ranks)) as pool:
            return list(pool.map(lambda rank: self.member(chunks, rank, ids, **changes), ranks))

    def gathered(self, chunks, length):
        """Keys and values [layers, tokens, G, D] from the spans of all members."""
        shape = (NUM_LAYERS, length, CONFIG.num_key_value_heads, CONFIG.head_dim)
        keys, values = torch.full(shape, torch.nan), torch.full(shape, torch.nan)
        for index, chunk in enumerate(chunks):
            for rank in range(chunk.size):
                where = [p for shard in shards(chunk, rank) for p in range(*shard)]
                for layer in range(NUM_LAYERS):
                    spans = self.engines[rank].spans("r", 1, index)
                    k, v = self.engines[rank].cache.read(layer, spans)
                    keys[layer, where], values[layer, where] = k, v
        return keys, values

    def logits(self):
        return [row for engine in self.engines for row in engine.model.logits]


@contextmanager
def group_of(model, tmp_path):
    engines = []
    for rank in range(4):
        links = Links(
            ZmqLink(f"ipc://{tmp_path}/ring{rank}", 5), ZmqLink(f"ipc://{tmp_path}/bal{rank}", 5)
        )
        recording = Recording(model, model.layout)
        engines.append(Engine(recording, POOL_TOKENS, links, Bounds(start=20, step=20)))
    yield Group(engines)
    for engine in engines:
        engine.close()


@pytest.fixture
def group(model, tmp_path):
    with group_of(model, tmp_path) as made:
        yield made


def prompt(length, seed=0):
    return np.random.default_rng(seed).integers(0, CONFIG.vocab_size, length, dtype=np.int32)


def forced(length, sizes):
    """An uneven cut of the prompt into one chunk for each size, as far as it has tokens."""
    cuts = [0, *(length * (2 * i + 1) // (2 * len(sizes)) for i in range(1, len(sizes))), length]
    parts = [(b - a, size) for a, b, size in zip(cuts, cuts[1:], sizes, strict=False) if b > a]
    return plan(*parts)


@pytest.mark.parametrize("sizes", [(1,), (2,), (4,), (1, 2), (1, 2, 4), (1, 4), (2, 4)], ids=str)
@pytest.mark.parametrize("length", [1, 2, 7, 17, 63, 200])
def test_any_plan_gives_the_logits_and_the_kv_of_the_whole_prompt(group, reference, length, sizes):
    ids, chunks = prompt(length), forced(length, sizes)
    results = group.run(chunks, ids, sampling=Sampling(temperature=0.0))
    expected, keys, values = reference(ids)
    [logits] = group.logits()
    torch.testing.assert_close(logits, expected, rtol=0, atol=1e-4)
    actual = group.gathered(chunks, length)
    torch.testing.assert_close(actual[0], keys, rtol=0, atol=1e-4)
    torch.testing.assert_close(actual[1], values, rtol=0, atol=1e-4)
    tokens = [result.first for member in results for result in member if result.first]
    assert [token.id for token in tokens] == [int(expected.argmax())]
    for engine in group.engines:
        engine.release("r", 1)
        assert engine.holdings.free_slots == engine.holdings.total_slots


def test_token_0_carries_what_decode_must_know(group, reference):
    ids = prompt(40)
    changes = {
        "sampling": Sampling(temperature=0.0, logprobs=2),
        "ending": Ending(max_tokens=5, stop_token_ids=(int(reference(ids)[0].argmax()),)),
        "num_emitted": 9,
    }
    results = group.run(plan((40, 2)), ids, **changes)
    [first] = [result.first for member in results for result in member if result.first]
    logprobs = reference(ids)[0].double().log_softmax(0)
    assert first.request == "r" and first.attempt == 1 and first.index == 9
    assert first.logprob == pytest.approx(float(logprobs.max()), abs=1e-4)
    assert [top.id for top in first.top] == logprobs.topk(2).indices.tolist()
    assert first.finish == "stop"


def test_a_stop_token_is_not_drawn_before_min_tokens(group, reference):
    ids = prompt(40)
    best, second = reference(ids)[0].topk(2).indices.tolist()
    ending = Ending(max_tokens=1, min_tokens=1, stop_token_ids=(best,))
    results = group.run(plan((40, 1)), ids, sampling=Sampling(temperature=0.0), ending=ending)
    assert (results[0][0].first.id, results[0][0].first.finish) == (second, "length")


def test_requests_follow_each_other_in_fragmented_pools(group, reference):
    for attempt in range(1, 4):
        for name, length in (("a", 33), ("r", 90)):
            ids = prompt(length, attempt)
            group.run(forced(length, (1, 2, 4)), ids, request=name, attempt=attempt)
            expected = reference(ids)[0]
            torch.testing.assert_close(group.logits()[-1], expected, rtol=0, atol=1e-4)
            for engine in group.engines:
                engine.model.logits.clear()
                if name == "a":
                    engine.release(name, attempt)


def test_the_phases_of_a_chunk_are_measured(group):
    results = group.run(plan((60, 1), (60, 2)), prompt(120))
    assert len(results[0]) == 2 and len(results[1]) == 1
    assert all(result.compute > 0 for member in results for result in member)
    assert results[0][0].wait == results[0][0].balance == results[0][1].balance == 0
    assert results[1][0].wait > 0


def test_the_moments_of_a_chunk_stand_in_their_order_and_agree_with_its_phases(group):
    began = time.monotonic()
    results = group.run(plan((60, 1), (60, 2)), prompt(120))
    for result in (result for member in results for result in member):
        begun, gathered, ended, sampled = result.moments
        assert began <= begun <= gathered <= ended <= sampled <= time.monotonic()
        assert gathered - begun >= result.gather
        whole = result.compute + result.wait + result.balance
        assert sampled - begun == pytest.approx(whole, abs=1e-9)
    assert results[0][0].moments.sampled <= results[0][1].moments.begun


def test_a_chunk_whose_group_does_not_come_leaves_no_slots_behind(group):
    lone = group.engines[0]
    lone.bounds = Bounds(start=0.2, step=0.2)
    with pytest.raises(LinkTimeout):
        group.member(plan((20, 2)), 0, prompt(20))
    assert lone.holdings.free_slots == lone.holdings.total_slots
    with pytest.raises(RequestFailed, match="already ended"):
        group.member(plan((20, 1)), 0, prompt(20))


def test_a_prompt_that_does_not_fit_leaves_no_slots_behind(group):
    with pytest.raises(OutOfPages):
        group.member(plan((1000, 1), (100, 1)), 0, prompt(1100))
    assert group.engines[0].holdings.free_slots == POOL_TOKENS


def test_ids_that_do_not_match_the_chunk_are_refused(group):
    with pytest.raises(RequestFailed, match="5 ids for a chunk of 20 tokens"):
        group.engines[0].run(
            run_chunk(plan((20, 1)), 0, 0), prompt(5), lambda: None, lambda layer: None
        )
    assert group.engines[0].holdings.free_slots == POOL_TOKENS


@pytest.mark.parametrize("bad", [-1, -(2**31), 2**31 - 1])
def test_ids_that_the_model_does_not_have_are_refused(group, bad):
    ids = prompt(20)
    ids[7] = bad
    with pytest.raises(RequestFailed, match="not among the model's"):
        group.engines[0].run(run_chunk(plan((20, 1)), 0, 0), ids, lambda: None, lambda layer: None)
    assert group.engines[0].holdings.free_slots == POOL_TOKENS


class Leaver:
    """Hooked to a failpoint, has the engine of one thread abort when it comes there."""

    def __init__(self, engine, request, count=1):
        self.left_at = None
        self._engine, self._request, self._left = engine, request, count
        self.thread = None

    def __call__(self):
        if threading.current_thread() is self.thread:
            self._left -= 1
            if self._left == 0:
                self.left_at = time.perf_counter()
                self._engine.abort(self._request, 1)


def leave(group, chunks, ids, place, *, rank=1, count=1):
    """Run a plan that one member leaves at a failpoint; what became of every member, and when."""
    leaver = Leaver(group.engines[rank], "gone", count)
    ended = []

    def member(mine):
        if mine == rank:
            leaver.thread = threading.current_thread()
        try:
            group.member(chunks, mine, ids, request="gone")
        except Aborted as error:
            ended.append((mine, str(error), time.perf_counter()))

    ranks = range(chunks[-1].size)
    with failpoints.hooked(place, leaver), ThreadPoolExecutor(len(ranks)) as pool:
        list(pool.map(member, ranks))
    return leaver, ended


PLACES = [
    ("chunk.start", 1),
    ("balance.layer", 1),
    ("balance.layer", 2),
    ("ring.step", 1),
    ("ring.step", 5),
    ("chunk.layer", 3),
]


@pytest.mark.parametrize(("place", "count"), PLACES)
@pytest.mark.parametrize("rank", [0, 1, 3])
def test_when_a_member_leaves_all_others_do_and_the_next_prompt_is_right(
    group, reference, place, count, rank
):
    chunks = plan((40, 4)) if place == "ring.step" else plan((30, 1), (30, 2), (40, 4))
    ids = prompt(chunks[-1].history + chunks[-1].length, 7)
    leaver, ended = leave(group, chunks, ids, place, rank=rank, count=count)
    assert leaver.left_at is not None
    assert sorted(mine for mine, _, _ in ended) == [0, 1, 2, 3]
    assert [what for mine, what, _ in ended if mine == rank] == ["the attempt is over"]
    assert max(at for _, _, at in ended) - leaver.left_at < 1.0
    for engine in group.engines:
        assert engine.holdings.free_slots == engine.holdings.total_slots
        engine.model.logits.clear()
    ids = prompt(90, 8)
    group.run(forced(90, (1, 2, 4)), ids)
    torch.testing.assert_close(group.logits()[-1], reference(ids)[0], rtol=0, atol=1e-4)


def test_an_attempt_that_fails_at_one_member_is_left_by_all(group):
    group.engines[3].holdings.release("r", 1)  # so that it refuses
    chunks, ids, ended = plan((40, 4)), prompt(40), []

    def member(rank):
        try:
            group.member(chunks, rank, ids)
        except (Aborted, RequestFailed) as error:
            ended.append(type(error))

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(member, range(4)))
    assert sorted(ended, key=str) == [Aborted, Aborted, Aborted, RequestFailed]


def test_a_member_that_ends_does_not_wait_for_its_group(group):
    lone, chunks, started = group.engines[0], plan((40, 2)), time.perf_counter()
    members = members_at(
        [engine.links.ring.endpoint for engine in group.engines[:2]],
        [engine.links.balance.endpoint for engine in group.engines[:2]],
    )
    with pytest.raises(Aborted, match="this member ends"):
        lone.run(run_chunk(chunks, 0, 0, members), prompt(40), lone.stop, lambda layer: None)
    assert time.perf_counter() - started < 2.0
    assert lone.holdings.free_slots == lone.holdings.total_slots


def test_a_chunk_predicted_to_be_slow_may_take_its_time(group):
    lone = group.engines[0]
    lone.bounds = Bounds(start=5, step=0.05)
    chunks, ids = plan((40, 2)), prompt(40)

    def slow():
        if threading.current_thread() is late.get("thread"):
            time.sleep(0.3)

    late = {}

    def member(rank):
        if rank == 1:
            late["thread"] = threading.current_thread()
        return group.member(chunks, rank, ids, predicted=1.0)

    with failpoints.hooked("chunk.layer", slow), ThreadPoolExecutor(2) as pool:
        assert len(list(pool.map(member, range(2)))) == 2


@pytest.fixture(scope="module", params=["llama", "qwen2", "qwen3"])
def sharp(request, tmp_path_factory):
    """A model whose logits are far from flat, and transformers' log-softmax of a prompt."""
    path = save(tmp_path_factory.mktemp("sharp"), request.param, eos_token_id=None)
    causal = stock(path)

    @torch.inference_mode()
    def logprobs(ids):
        return causal(torch.from_numpy(ids.astype(np.int64))[None]).logits[0].log_softmax(-1)

    return load(path, "float32"), logprobs


def scores_of(results):
    """Scores by position; every position once."""
    found = {}
    for result in (result for member in results for result in member):
        for scores in result.scores:
            for position, score in enumerate(scores.message(slice(None)), scores.start):
                assert position not in found
                found[position] = score
    return found


def assert_scores(found, expected, ids, num_top):
    assert sorted(found) == list(range(1, len(ids)))
    for position, score in found.items():
        row = expected[position - 1]
        assert score.logprob == pytest.approx(float(row[ids[position]]), abs=1e-4)
        values, tokens = row.topk(num_top)
        assert [one.id for one in score.top] == tokens.tolist()
        assert [one.logprob for one in score.top] == pytest.approx(values.tolist(), abs=1e-4)


@pytest.mark.parametrize("sizes", [(1,), (2,), (4,), (1, 2), (1, 2, 4)], ids=str)
@pytest.mark.parametrize("length", [1, 2, 7, 17, 200])
def test_any_plan_scores_every_token_of_the_prompt_once_as_transformers_does(
    sharp, tmp_path, length, sizes
):
    model, logprobs = sharp
    ids, chunks = prompt(length), forced(length, sizes)
    expected = logprobs(ids)
    with group_of(model, tmp_path) as group:
        results = group.run(chunks, ids, sampling=Sampling(temperature=0), prompt_logprobs=3)
    assert expected.std() > 1.0
    assert_scores(scores_of(results), expected, ids, 3)
    firsts = [result.first for member in results for result in member if result.first]
    assert [first.id for first in firsts] == [int(expected[-1].argmax())]


@pytest.mark.parametrize("rows", [1, 5, 16])
@pytest.mark.parametrize("num_top", [0, 20])
def test_scores_do_not_depend_on_how_many_rows_have_logits_at_a_time(
    sharp, tmp_path, monkeypatch, rows, num_top
):
    model, logprobs = sharp
    monkeypatch.setattr(engine_module, "ROWS", rows)
    ids = prompt(63)
    with group_of(model, tmp_path) as group:
        results = group.run(forced(63, (1, 2)), ids, prompt_logprobs=num_top)
    assert_scores(scores_of(results), logprobs(ids), ids, num_top)


def test_nobody_scores_what_is_not_asked_for(group, monkeypatch):
    monkeypatch.setattr(Model, "slices", None)
    results = [result for member in group.run(plan((40, 2)), prompt(40)) for result in member]
    assert [(result.scores, result.scoring) for result in results] == [((), 0.0)] * 2


def test_scoring_ends_between_two_slices_when_its_attempt_does(group, monkeypatch):
    monkeypatch.setattr(engine_module, "ROWS", 8)
    lone, num_slices = group.engines[0], 0
    slices = lone.model.slices

    def leaving(*arguments):
        nonlocal num_slices
        for part in slices(*arguments):
            num_slices += 1
            if num_slices == 2:
                lone.abort("r", 1)
            yield part

    lone.model.slices = leaving
    with pytest.raises(Aborted):
        group.member(plan((40, 1)), 0, prompt(40), prompt_logprobs=0)
    assert num_slices == 2
    assert lone.holdings.free_slots == POOL_TOKENS


def test_penalties_look_at_the_ids_so_far_and_refuse_to_do_without(group, reference):
    ids = prompt(40)
    best, second = reference(ids)[0].topk(2).indices.tolist()
    emitted = np.append(ids[:-1], best).astype("<i4")
    sampling = Sampling(temperature=0, presence_penalty=2.0)
    changes = {"sampling": sampling, "num_emitted": 1}
    # the engine takes the ids so far from `past` alone, so that what is drawn shows what it saw
    [[result]] = group.run(plan((40, 1)), ids, past=emitted.tobytes(), **changes)
    assert (result.first.id, result.first.index) == (second, 1)
    with pytest.raises(RequestFailed, match="156 bytes are not the 40 ids so far"):
        group.run(plan((40, 1)), ids, request="q", past=emitted[1:].tobytes(), **changes)
