import random
from dataclasses import replace

import numpy as np
import pytest
import torch

from common.messages import Bias, Sampling
from common.pages import PAGE, Span, take
from common.past import Past
from common.tensor.attention import partial_attention
from common.tensor.kv_cache import KvCache
from common.tensor.models import load
from services.decode_worker.engine import ModelEngine
from services.decode_worker.request import Entry
from tests.common.tensor.tiny_models import save, stock

GREEDY = Sampling(temperature=0)


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return save(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def model(path):
    return load(path, "float32")


class Sequences:
    """Prompts whose KV lies in the cache, and what was decoded after them."""

    def __init__(self, model, lengths, run=PAGE, reserve=24):
        self.model = model
        slots = [-(-(length + reserve) // run) * run for length in lengths]
        self.cache = KvCache(model.layout, sum(slots) // PAGE)
        self.cache.keys.zero_()
        self.engine = ModelEngine(model, self.cache)
        pieces = [Span(s, s + run) for s in range(0, sum(slots), run)]
        random.Random(1).shuffle(pieces)
        free = iter(pieces)
        self.spans = [[next(free) for _ in range(count // run)] for count in slots]
        self.prompts = [
            torch.randint(101, (length,), generator=torch.Generator().manual_seed(length)).tolist()
            for length in lengths
        ]
        self.tokens = [[*prompt, self._prefill(i)] for i, prompt in enumerate(self.prompts)]

    def _prefill(self, index):
        ids, spans = torch.tensor(self.prompts[index]), self.spans[index]

        def attend(layer, q, k, v, scale):
            own = take(spans, 0, len(ids))
            self.cache.write(layer, own, k.transpose(0, 1), v.transpose(0, 1))
            out = partial_attention(q, k, v, causal=True, scale=scale).out
            return out.transpose(0, 1).to(q.dtype)

        last = len(ids) - 1
        return int(self.model.forward(ids, torch.arange(len(ids)), attend, [last]).argmax())

    def entry(self, index, sampling=GREEDY):
        tokens = self.tokens[index]
        return Entry(tokens[-1], len(tokens) - 1, self.spans[index], sampling)

    def step(self, indices, sampling=GREEDY):
        drawn = self.engine.step([self.entry(i, sampling) for i in indices])
        for index, sampled in zip(indices, drawn, strict=True):
            self.tokens[index].append(sampled.id)
        return drawn


@pytest.mark.parametrize("run", [PAGE, 48])
def test_greedy_tokens_equal_those_of_transformers_over_scattered_slots(path, model, run):
    sequences = Sequences(model, [17, 40, 24], run=run)
    for _ in range(20):
        sequences.step([0, 1, 2])
    for prompt, tokens in zip(sequences.prompts, sequences.tokens, strict=True):
        expected = stock_tokens(path, prompt, 21)
        assert tokens == expected


def stock_tokens(path, prompt, length):
    """Greedy continuation by whole forwards of the stock model: no cache, no generate."""
    causal, tokens = stock(path), list(prompt)
    with torch.inference_mode():
        for _ in range(length):
            tokens.append(int(causal(torch.tensor([tokens])).logits[0, -1].argmax()))
    return tokens


def test_tokens_do_not_depend_on_who_shares_the_batch_or_in_which_order(model):
    sampling = Sampling(temperature=1.0, seed=3)
    alone, together = Sequences(model, [17, 40, 24]), Sequences(model, [17, 40, 24])
    rng = random.Random(2)
    for _ in range(20):
        for index in range(3):
            alone.step([index], sampling)
        together.step(rng.sample(range(3), 3), sampling)
    assert alone.tokens == together.tokens


def test_another_attempt_draws_the_same_tokens(model):
    sampling = Sampling(temperature=1.0, seed=3)
    first = Sequences(model, [17])
    for _ in range(15):
        first.step([0], sampling)
    again = Sequences(model, [17])
    again.prompts = [first.tokens[0][:25]]
    again._prefill(0)
    again.tokens = [first.tokens[0][:26]]
    for _ in range(7):
        again.step([0], sampling)
    assert again.tokens == first.tokens


def test_a_step_writes_its_own_slots_only(model):
    sequences = Sequences(model, [17, 40])
    # Memory that nobody has written may hold NaN, which differs from itself.
    before = sequences.cache.keys.nan_to_num_().clone()
    sequences.step([0, 1])
    changed = (sequences.cache.keys != before).flatten(2).any(-1)
    slots = [take(sequences.spans[i], n, n + 1)[0].start for i, n in ((0, 17), (1, 40))]
    assert [sorted(layer.nonzero().flatten().tolist()) for layer in changed] == [sorted(slots)] * 3


def test_forbidden_tokens_are_not_drawn(model):
    sequences = Sequences(model, [17])
    entry = sequences.entry(0)
    [best] = sequences.engine.step([entry])
    barred = Entry(entry.last, entry.position, entry.spans, GREEDY, frozenset([best.id]))
    [other] = sequences.engine.step([barred])
    assert other.id != best.id


def test_a_sequence_without_finite_logits_gets_no_token_and_spares_the_others(model):
    sequences = Sequences(model, [17, 40])
    sequences.cache.values[:, sequences.spans[0][0].start] = torch.nan
    expected = Sequences(model, [17, 40]).step([1])
    assert sequences.engine.step([sequences.entry(0), sequences.entry(1)]) == [None, *expected]


def test_half_precision_stays_close_to_transformers(path):
    model = load(path, "bfloat16")
    sequences = Sequences(model, [40])
    drawn = sequences.engine.step([sequences.entry(0, Sampling(temperature=0, logprobs=20))])
    with torch.inference_mode():
        logits = stock(path)(torch.tensor([sequences.tokens[0]])).logits[0, -1]
    expected = logits.log_softmax(0)
    top = {a.id: a.logprob for a in drawn[0].top}
    assert max(abs(expected[i] - p) for i, p in top.items()) < 0.5


def test_penalties_count_for_their_own_sequence_only(model):
    sequences, plain = Sequences(model, [17, 40]), Sequences(model, [17, 40])
    best = [sampled.id for sampled in plain.step([0, 1])]
    ids = np.array(best[:1], dtype="<i4").tobytes()
    sampling = Sampling(temperature=0, presence_penalty=2.0, repetition_penalty=50.0)
    entries = [sequences.entry(index, sampling) for index in (0, 1)]
    entries = [replace(entries[0], past=Past(ids, 1)), replace(entries[1], past=Past(b"", 0))]
    drawn = [sampled.id for sampled in sequences.engine.step(entries)]
    assert drawn[0] != best[0]
    assert drawn[1] == best[1]


def test_biases_need_no_past(model):
    sequences = Sequences(model, [17])
    entry = sequences.entry(0, Sampling(temperature=0, biases=(Bias(33, 100.0),)))
    assert [sampled.id for sampled in sequences.engine.step([entry])] == [33]
