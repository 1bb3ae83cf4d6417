from dataclasses import replace

import numpy as np
import pytest

from common.config import Config, EmulatedConfig, ModelConfig, RouterConfig, StepCost
from common.emulated_model import EmulatedModel
from common.errors import ConfigError
from common.latency import Curve, LatencyModel
from common.messages import KvLayout, PromptScores, RunChunk, Sampling
from common.wire import CONTROL
from tests.services.prefill_worker.plans import plan, run_chunk

CARD = ModelConfig(path="emulated", name="n")
CURVES = LatencyModel({1: Curve(0.5, 0.001, 0.0, 0.0), 2: Curve(0.25, 0.0005, 1e-6, 0.0)})
MODEL = EmulatedModel(
    KvLayout(4, 2, 8, "bfloat16"), CURVES, StepCost(base=0.01, request=0.001, token=1e-5)
)


def chunk(index: int = 0, rank: int = 0, request: str = "a") -> RunChunk:
    return run_chunk(plan((100, 1), (200, 2)), index, rank, request=request)


def test_a_chunk_takes_what_the_latency_model_says():
    assert MODEL.chunk_seconds(chunk(0)) == pytest.approx(0.5 + 100 * 0.001)
    assert MODEL.chunk_seconds(chunk(1)) == pytest.approx(0.25 + 200 * (0.0005 + 1e-6 * 100))


def test_a_step_takes_time_for_itself_its_requests_and_their_contexts():
    assert MODEL.step_seconds([100, 300]) == pytest.approx(0.01 + 2 * 0.001 + 400 * 1e-5)


def test_a_layers_bytes_are_those_of_keys_and_values():
    assert MODEL.layer_bytes(10) == 10 * 2 * 2 * 8 * 2


def test_an_error_stays_in_its_bounds_and_differs_between_chunks_but_not_between_members():
    model = replace(MODEL, error=0.2, seed=3)
    shares = [model.chunk_seconds(chunk(request=f"r{i}")) / 0.6 - 1 for i in range(200)]
    assert -0.2 <= min(shares) < -0.15 and 0.15 < max(shares) <= 0.2
    assert len(set(shares)) == 200
    assert model.chunk_seconds(chunk(1)) == model.chunk_seconds(chunk(1, rank=1))
    assert model.step_seconds([5]) != MODEL.step_seconds([5])


def test_the_errors_seed_changes_it():
    first, again, other = (replace(MODEL, error=0.2, seed=seed) for seed in (1, 1, 2))
    assert first.chunk_seconds(chunk()) == again.chunk_seconds(chunk())
    assert first.chunk_seconds(chunk()) != other.chunk_seconds(chunk())


def test_tokens_follow_from_seed_choice_and_position():
    sampling = Sampling(seed=7)
    tokens = [MODEL.sample(sampling, position).id for position in range(50)]
    assert tokens == [replace(MODEL, seed=9).sample(sampling, p).id for p in range(50)]
    assert len(set(tokens)) > 30
    others = (Sampling(seed=8), Sampling(seed=7, choice=1))
    assert all(MODEL.sample(other, 0).id != tokens[0] for other in others)


def test_forbidden_tokens_are_not_drawn():
    sampling = Sampling()
    token = MODEL.sample(sampling, 5).id
    assert MODEL.sample(sampling, 5, {token, token + 1}).id == token + 2


def test_all_tokens_are_bytes_that_can_be_printed():
    drawn = {MODEL.sample(Sampling(), position).id for position in range(2000)}
    assert drawn == set(range(0x20, 0x7F))


def test_of_all_but_one_forbidden_token_that_one_is_drawn():
    for position in range(100):
        forbidden = set(range(0x20, 0x7F)) - {0x41}
        assert MODEL.sample(Sampling(), position, forbidden).id == 0x41


def test_what_is_emulated_stands_in_the_configuration():
    given = EmulatedConfig(
        layout=KvLayout(4, 2, 8, "float16"), step=StepCost(base=0.5), error=0.25, seed=3
    )
    router = RouterConfig(latency="a100-llama3-8b")
    model = EmulatedModel.of(Config(model=CARD, router=router, emulated=given))
    assert (model.layout, model.decode, model.error, model.seed) == (
        given.layout,
        given.step,
        0.25,
        3,
    )
    assert model.prefill.predict(1, 0, 4096) == pytest.approx(0.28, rel=0.08)
    with pytest.raises(ConfigError, match="no such latency model"):
        EmulatedModel.of(Config(model=CARD, router=RouterConfig(latency="none")))


def test_logprobs_are_given_when_asked_for():
    assert MODEL.sample(Sampling(), 1).logprob is None
    certain = MODEL.sample(Sampling(logprobs=0), 1)
    assert (certain.logprob, certain.top) == (0.0, ())
    told = MODEL.sample(Sampling(logprobs=5), 1)
    assert [(one.id, one.logprob) for one in told.top] == [(told.id, 0.0)]


def test_scores_follow_from_position_and_id_whatever_they_come_with():
    ids = np.array([5, 9, 5, 5], np.int32)
    every = MODEL.scores(10, ids, 3).message(slice(None))
    parts = [*MODEL.scores(10, ids[:1], 3).message(slice(None))]
    parts += MODEL.scores(11, ids[1:], 3).message(slice(None))
    assert list(every) == parts
    assert len({score.logprob for score in every}) > 1
    assert all(len({one.id for one in score.top}) == 3 for score in every)
    assert all(
        list(score.top) == sorted(score.top, key=lambda one: -one.logprob) for score in every
    )
    message = PromptScores("r", 1, 10, every, "tcp://h:1")
    assert CONTROL.decode(CONTROL.encode(message))[0] == message
    assert MODEL.scores(10, ids, 0).message(slice(0, 1))[0].top == ()
