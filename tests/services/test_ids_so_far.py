"""Prefill and decode together draw what one loop over transformers draws, penalties and all."""

import numpy as np
import pytest
import torch
from msgspec import structs
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    RepetitionPenaltyLogitsProcessor,
)

from common.messages import Bias, Ending, Grant, Sampling
from common.pages import PAGE, Owner, take
from common.tensor.kv_cache import KvCache
from common.tensor.models import load
from common.tensor.sampling import sample
from services.decode_worker.engine import ModelEngine
from services.decode_worker.scheduler import Scheduler
from services.decode_worker.slots import Slots
from services.prefill_worker.transfer import Transfer
from tests.services.prefill_worker.plans import TARGET, run_chunk
from tests.services.prefill_worker.test_engine import CONFIG, forced, group_of, prompt

COUNT, CUT = 24, 9
SEED = 11
"""With it every drawn number is 8e-5 and more from where the next id begins: noise is 1e-6."""
OWNER = Owner("r", 1)
CASES = {
    "repetition": {"repetition_penalty": 1.6},
    "presence": {"presence_penalty": 1.9},
    "frequency": {"frequency_penalty": 1.3},
    "biases": {"biases": (Bias(11, 4.0), Bias(70, -100.0), Bias(100, 2.5))},
    "all": {
        "presence_penalty": 0.4,
        "frequency_penalty": -0.3,
        "repetition_penalty": 1.3,
        "biases": (Bias(11, 4.0), Bias(70, -6.0)),
    },
}


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    torch.manual_seed(3)
    path = tmp_path_factory.mktemp("model")
    config = LlamaConfig(**(CONFIG.to_dict() | {"initializer_range": 0.2}))
    LlamaForCausalLM(config).save_pretrained(path)
    return str(path)


@pytest.fixture(scope="module")
def model(path):
    return load(path, "float32")


@pytest.fixture(scope="module")
def continued(path):
    """Tokens after a prompt by whole forwards of the stock model, adjusted outside of ours."""
    causal = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()

    @torch.inference_mode()
    def loop(ids, sampling):
        emitted = []
        plain = Sampling(temperature=sampling.temperature, seed=sampling.seed)
        for _ in range(COUNT):
            every = torch.tensor([[*ids.tolist(), *emitted]])
            logits = causal(every).logits[0, -1]
            for bias in sampling.biases:
                logits[bias.id] += bias.value
            processor = RepetitionPenaltyLogitsProcessor(sampling.repetition_penalty)
            logits = processor(every, logits[None])[0]
            for token in set(emitted):
                logits[token] -= sampling.frequency_penalty * emitted.count(token)
                logits[token] -= sampling.presence_penalty
            emitted.append(sample(logits, plain, every.shape[1]).id)
        return emitted

    return loop


def prefill(model, place, sizes, ids, **changes):
    """One attempt's chunks: its commit with the job, and the prompt's KV."""
    chunks = forced(len(ids), sizes)
    place.mkdir()
    with group_of(model, place) as group:
        results = group.run(chunks, ids, **changes)
        kv = group.gathered(chunks, len(ids))
    [first] = [result.first for member in results for result in member if result.first]
    run = run_chunk(chunks, len(chunks) - 1, 0, **changes)
    sending = Transfer(run, TARGET, (), num_layers=0, first=first)
    commit = sending.parcel(Grant("r", 1, run.index, 0, 0, 1), 0, "tcp://p:1").message
    return structs.replace(commit, num_transfers=1), kv


def decode(model, commit, kv):
    """All tokens of the attempt, the first among them."""
    num_slots = commit.prompt_length + COUNT
    slots = Slots(-(-num_slots // PAGE))
    cache, scheduler = KvCache(model.layout, slots.totals()[0] // PAGE), Scheduler(slots, (), 1, 16)
    slots.reserve(OWNER, num_slots, 0.0)
    spans = take(slots.spans(OWNER), 0, commit.prompt_length)
    for layer, (keys, values) in enumerate(zip(*kv, strict=True)):
        cache.write(layer, spans, keys, values)
    assert scheduler.commit(commit) is None
    engine, tokens = ModelEngine(model, cache), []
    while scheduler.has_work:
        [request] = scheduler.start().batch
        scheduler.finish(engine.step(scheduler.entries()))
        tokens += [token.id for token in request.take_tokens()]
    return tokens


def attempt(model, place, sizes, ids, num_emitted, sampling):
    changes = {
        "sampling": sampling,
        "num_emitted": num_emitted,
        "ending": Ending(COUNT - num_emitted),
        "past": ids.astype("<i4").tobytes() if sampling.looks_back else b"",
    }
    return decode(model, *prefill(model, place, sizes, ids, **changes))


@pytest.mark.parametrize("temperature", [0.0, 0.8])
@pytest.mark.parametrize("case", CASES)
def test_any_plan_and_another_attempt_draw_the_tokens_of_the_reference(
    model, continued, tmp_path, case, temperature
):
    sampling = Sampling(temperature=temperature, seed=SEED, **CASES[case])
    ids = prompt(41)
    expected = continued(ids, sampling)
    assert expected != continued(ids, Sampling(temperature=temperature, seed=SEED))
    again = np.concatenate([ids, np.array(expected[:CUT], ids.dtype)])
    for number, (sizes, others) in enumerate([((1,), (1, 2, 4)), ((2,), (1,)), ((1, 2), (4,))]):
        first = attempt(model, tmp_path / f"{number}a", sizes, ids, 0, sampling)
        assert first == expected
        second = attempt(model, tmp_path / f"{number}b", others, again, CUT, sampling)
        assert first[:CUT] + second == expected
