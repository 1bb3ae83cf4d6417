import math

import numpy as np
import pytest
import torch
from transformers import RepetitionPenaltyLogitsProcessor

from common.errors import RequestFailed
from common.messages import Bias, Sampling
from common.past import Past
from common.tensor.sampling import key, sample

VOCAB = 300


def logits_of(seed, spread=2.0, vocab=VOCAB):
    return torch.randn(vocab, generator=torch.Generator().manual_seed(seed)) * spread


def reference(logits, sampling, position, forbidden=()):
    """The definition, slowly: filters one after another, then the race of what is left."""
    scores = [float(x) for x in logits]
    weights = [
        0.0 if i in forbidden else math.exp((x - max(scores)) / sampling.temperature)
        for i, x in enumerate(scores)
    ]
    highest = max(weights)
    weights = [w if w >= sampling.min_p * highest else 0.0 for w in weights]
    if 0 < sampling.top_k < len(weights):
        floor = sorted(weights, reverse=True)[sampling.top_k - 1]
        weights = [w if w >= floor else 0.0 for w in weights]
    if sampling.top_p < 1:
        mass, floor = 0.0, 0.0
        for w in sorted(weights, reverse=True):
            mass, floor = mass + w, w
            if mass >= sampling.top_p * sum(weights):
                break
        weights = [w if w >= floor else 0.0 for w in weights]
    drawn = key(sampling.seed, sampling.choice, position)
    arrivals = [
        -math.log(number(drawn, i)) / w if w > 0 else math.inf for i, w in enumerate(weights)
    ]
    return arrivals.index(min(arrivals))


def number(key, token):
    """In (0, 1): the first output of SplitMix64 that is seeded for this id."""
    z = (key + (token + 1) * 0x9E3779B97F4A7C15) % 2**64
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB % 2**64
    z ^= z >> 31
    return ((z >> 11) + 0.5) / 2**53


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(),
        Sampling(temperature=0.3),
        Sampling(temperature=5.0),
        Sampling(top_k=1),
        Sampling(top_k=7, seed=2**63 - 1),
        Sampling(top_k=10_000),
        Sampling(top_p=0.01),
        Sampling(top_p=0.9, choice=3),
        Sampling(top_p=0.999, temperature=50.0),
        Sampling(min_p=0.2),
        Sampling(min_p=1.0),
        Sampling(temperature=1.5, top_k=40, top_p=0.8, min_p=0.02, seed=9),
    ],
)
def test_draws_are_those_of_the_definition(sampling):
    for position in range(60):
        logits = logits_of(position)
        assert sample(logits, sampling, position).id == reference(logits, sampling, position)


def test_greedy_takes_the_highest_and_needs_no_randomness():
    logits = logits_of(1)
    drawn = {sample(logits, Sampling(temperature=0, seed=s), s).id for s in range(5)}
    assert drawn == {int(logits.argmax())}


def test_forbidden_ids_that_the_model_does_not_have_change_nothing():
    logits = logits_of(1)
    strange = [len(logits), 2**31 - 1]
    best = int(logits.argmax())
    assert sample(logits, Sampling(temperature=0), 0, strange).id == best
    assert sample(logits, Sampling(temperature=0), 0, [*strange, best]).id != best


def test_forbidden_ids_are_never_drawn_and_logits_stay_as_they_are():
    logits = logits_of(1)
    kept, best = logits.clone(), {int(i) for i in logits.topk(5).indices}
    assert sample(logits, Sampling(temperature=0), 0, best).id == int(logits.topk(6).indices[5])
    for position in range(50):
        drawn = sample(logits, Sampling(), position, best).id
        assert drawn not in best
        assert drawn == reference(
            logits.index_fill(0, torch.tensor(sorted(best)), -1e30), Sampling(), position
        )
    assert torch.equal(logits, kept)


@pytest.mark.parametrize("sampling", [Sampling(seed=4), Sampling(seed=4, top_k=6, top_p=0.95)])
def test_frequencies_follow_the_distribution(sampling):
    logits, num_draws = logits_of(3, spread=1.0, vocab=12), 20_000
    counts = torch.zeros(12)
    for position in range(num_draws):
        counts[sample(logits, sampling, position).id] += 1
    weights = logits.double().softmax(0)
    if sampling.top_k:
        weights[weights < weights.topk(6).values[-1]] = 0
        order = weights.argsort(descending=True)
        before = weights[order].cumsum(0) - weights[order]
        weights[order[before >= 0.95 * weights.sum()]] = 0
    expected = weights / weights.sum() * num_draws
    assert counts[expected == 0].sum() == 0
    used = expected > 0
    statistic = ((counts - expected)[used] ** 2 / expected[used]).sum()
    # 99.99 % quantile of chi-square with 11 degrees of freedom; the seed is fixed
    assert statistic < 37.4


def test_numbers_of_different_seeds_choices_and_positions_are_unrelated():
    grid = torch.tensor(
        [[[number(key(s, c, p), 7) for p in range(20)] for c in range(20)] for s in range(20)],
        dtype=torch.float64,
    )
    assert grid.unique().numel() == 8000
    assert grid.min() >= 0 and grid.max() < 1
    assert abs(grid.mean() - 0.5) < 0.02
    for axis in range(3):
        a, b = grid.narrow(axis, 0, 19).flatten(), grid.narrow(axis, 1, 19).flatten()
        assert abs(torch.corrcoef(torch.stack([a, b]))[0, 1]) < 0.05


def test_small_noise_in_the_logits_rarely_moves_a_draw():
    logits = logits_of(5)
    noise = logits_of(6, spread=1e-4)
    draws = [
        (sample(logits, Sampling(), p).id, sample(logits + noise, Sampling(), p).id)
        for p in range(500)
    ]
    assert sum(a != b for a, b in draws) <= 2


def test_noise_rarely_moves_a_draw_from_a_long_tail_of_unlikely_ids():
    # One likely id before 50,000 that share a fifth of the mass, each with less than the noise.
    logits = logits_of(5, spread=0.5, vocab=50_000) - 12
    logits[0] = 0.0
    noise = logits_of(6, spread=1e-5, vocab=50_000)
    draws = [
        (sample(logits, Sampling(), p).id, sample(logits + noise, Sampling(), p).id)
        for p in range(200)
    ]
    assert sum(a != 0 for a, _ in draws) > 20
    assert sum(a != b for a, b in draws) <= 1


def test_logprobs_are_of_the_distribution_before_temperature_and_filters():
    logits = logits_of(7)
    expected = logits.double().log_softmax(0)
    drawn = sample(logits, Sampling(temperature=0.5, top_k=3, logprobs=4), 11)
    assert drawn.logprob == pytest.approx(float(expected[drawn.id]), abs=1e-9)
    values, ids = expected.topk(4)
    assert [a.id for a in drawn.top] == ids.tolist()
    assert [a.logprob for a in drawn.top] == pytest.approx(values.tolist(), abs=1e-9)


def test_logprobs_come_only_as_far_as_they_are_asked_for():
    logits = logits_of(7)
    assert sample(logits, Sampling(), 0).logprob is None
    drawn = sample(logits, Sampling(logprobs=0), 0)
    assert drawn.logprob is not None and drawn.top == ()


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_logits_that_are_not_finite_fail_the_request(bad, temperature):
    logits = logits_of(1)
    logits[3] = bad
    with pytest.raises(RequestFailed, match="position 8"):
        sample(logits, Sampling(temperature=temperature), 8)


def test_impossible_tokens_are_never_drawn():
    logits = torch.full((50,), -math.inf)
    logits[[4, 40]] = 0.0
    drawn = {sample(logits, Sampling(), p).id for p in range(200)}
    assert drawn == {4, 40}
    assert sample(logits, Sampling(logprobs=3), 0).top[2].logprob == -1e9


PROMPT, EMITTED = [3, 17, 17, 250, 9], [9, 41, 41, 41, 3]


def past_of(prompt=PROMPT, emitted=EMITTED):
    return Past(np.array([*prompt, *emitted], dtype="<i4").tobytes(), len(emitted))


def changed(logits, sampling, prompt=PROMPT, emitted=EMITTED):
    """The logits after biases and penalties: transformers for repetition, a loop for the rest."""
    logits = logits.clone()
    for bias in sampling.biases:
        logits[bias.id] += bias.value
    if sampling.repetition_penalty != 1:
        processor = RepetitionPenaltyLogitsProcessor(sampling.repetition_penalty)
        logits = processor(torch.tensor([[*prompt, *emitted]]), logits[None])[0]
    for token in set(emitted):
        logits[token] -= sampling.frequency_penalty * emitted.count(token)
        logits[token] -= sampling.presence_penalty
    return logits


ADJUSTED = [
    {"presence_penalty": 1.5},
    {"presence_penalty": -2.0},
    {"frequency_penalty": 0.7},
    {"frequency_penalty": -1.1},
    {"repetition_penalty": 1.3},
    {"repetition_penalty": 0.6},
    {"biases": (Bias(41, 2.5), Bias(8, -100.0), Bias(0, 0.25))},
    {
        "presence_penalty": 0.5,
        "frequency_penalty": 0.4,
        "repetition_penalty": 1.2,
        "biases": (Bias(41, 3.0), Bias(9, -4.0)),
    },
]


@pytest.mark.parametrize("changes", ADJUSTED, ids=lambda changes: "-".join(changes))
@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_biases_and_penalties_are_those_of_the_references_before_temperature_and_filters(
    changes, temperature
):
    sampling, num_changed = Sampling(temperature=temperature, top_p=0.95, **changes), 0
    plain = Sampling(temperature=temperature, top_p=0.95)
    for position in range(60):
        logits = logits_of(position)
        # so that what is adjusted is often drawn: one is likely and positive, one negative
        logits[[41, 9, 17, 3]] += logits.max() - 1.0
        logits[[17, 3]] -= 2 * logits[[17, 3]].abs()
        drawn = sample(logits, sampling, position, past=past_of()).id
        expected = changed(logits, sampling)
        if temperature:
            assert drawn == reference(expected, plain, position)
        else:
            assert drawn == int(expected.argmax())
        num_changed += drawn != sample(logits, plain, position).id
    assert num_changed > 0


def test_repetition_looks_at_the_prompt_and_the_other_penalties_do_not():
    logits = torch.zeros(20)
    logits[5], logits[6] = 1.0, 0.9
    only_prompt = past_of([5], [])
    for changes, expected in (
        ({"repetition_penalty": 1.2}, 6),
        ({"presence_penalty": 2.0}, 5),
        ({"frequency_penalty": 2.0}, 5),
    ):
        greedy = Sampling(temperature=0, **changes)
        assert sample(logits, greedy, 1, past=only_prompt).id == expected
        assert sample(logits, greedy, 2, past=past_of([], [5])).id == 6


def test_what_is_forbidden_stays_so_whatever_its_bias():
    logits = logits_of(1)
    sampling = Sampling(temperature=0, repetition_penalty=0.1, biases=(Bias(41, 100.0),))
    assert sample(logits, sampling, 0, past=past_of()).id == 41
    assert sample(logits, sampling, 0, {41}, past_of()).id != 41


def test_ids_that_the_model_does_not_have_are_adjusted_in_silence():
    logits = logits_of(1)
    strange = past_of([VOCAB, 2**31 - 1, -1], [-5, VOCAB])
    biases = (Bias(VOCAB, 100.0), Bias(2**31 - 1, -100.0))
    sampling = Sampling(
        temperature=0,
        presence_penalty=2.0,
        frequency_penalty=2.0,
        repetition_penalty=5.0,
        biases=biases,
    )
    assert sample(logits, sampling, 0, past=strange).id == int(logits.argmax())


def test_logprobs_do_not_know_of_biases_and_penalties_and_logits_stay_as_they_are():
    logits = logits_of(7)
    kept, expected = logits.clone(), logits.double().log_softmax(0)
    sampling = Sampling(
        temperature=0, logprobs=2, repetition_penalty=1.5, biases=(Bias(41, 100.0),)
    )
    drawn = sample(logits, sampling, 0, past=past_of([1], [2]))
    assert drawn.id == 41
    assert drawn.logprob == pytest.approx(float(expected[41]), abs=1e-9)
    assert [one.id for one in drawn.top] == expected.topk(2).indices.tolist()
    assert torch.equal(logits, kept)


def test_a_penalty_that_makes_logits_infinite_fails_the_request():
    sampling = Sampling(temperature=0, repetition_penalty=1e-60)
    with pytest.raises(RequestFailed, match="not finite"):
        sample(logits_of(1).abs() + 1, sampling, 0, past=past_of())
