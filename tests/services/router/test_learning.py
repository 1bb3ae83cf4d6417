import random
from statistics import median

import pytest

from common.latency import Curve, LatencyModel, Sample
from common.pages import Owner
from services.router.learning import FRESH, Learning
from services.router.measuring import Measured

PRIOR = LatencyModel.load("cpu-smollm2-135m")
TRUTH = LatencyModel(
    {
        size: Curve(2.0 * curve.a, 1.3 * curve.b, 1.6 * curve.c, 0.8 * curve.d)
        for size, curve in PRIOR.curves.items()
    }
)


def measured(learning, size, history, length, seconds, computes=(1.0,)):
    predicted = learning.model.predict(size, history, length)
    parts = {str(index): compute for index, compute in enumerate(computes)}
    return Measured(Owner("r", 1), Sample(size, history, length, seconds), predicted, parts)


def work(learning, count, rng, truth=TRUTH, sizes=(1, 2), disturbed=0.0):
    """Chunks of all kinds; relative errors of their predictions."""
    errors = []
    for _ in range(count):
        size, history = rng.choice(sizes), rng.choice((0, 0, rng.randint(1, 4000)))
        length = int(min(8000, max(30, rng.lognormvariate(6.5, 1.0))))
        seconds = truth.predict(size, history, length) * rng.gauss(1.0, 0.03)
        errors.append(abs(learning.model.predict(size, history, length) / seconds - 1))
        if rng.random() < disturbed:
            seconds *= 5
        learning.take(measured(learning, size, history, length, seconds))
        if learning.is_due:
            learning.refit()
    return errors


@pytest.mark.parametrize("seed", range(3))
def test_predictions_become_true_though_some_chunks_are_disturbed(seed: int) -> None:
    learning = Learning(PRIOR)
    errors = work(learning, 120, random.Random(seed), disturbed=0.05)
    assert median(errors[:3]) > 0.1
    assert median(errors[-20:]) < 0.07
    assert all(min(curve) >= 0 for curve in learning.model.curves.values())
    assert all(0.9 < ratio < 1.1 for ratio in learning.drift().values())


def test_one_disturbed_chunk_changes_little_at_any_time() -> None:
    for before in (0, 1, 3, 20):
        learning = Learning(PRIOR)
        work(learning, before, random.Random(1), truth=PRIOR)
        learning.take(measured(learning, 1, 0, 1000, 5 * PRIOR.predict(1, 0, 1000)))
        learning.refit()
        for length in (100, 1000, 4000):
            ratio = learning.model.predict(1, 0, length) / PRIOR.predict(1, 0, length)
            assert ratio == pytest.approx(1.0, abs=0.35), (before, length)


def test_with_few_chunks_the_prior_keeps_its_shape_and_is_scaled() -> None:
    learning = Learning(PRIOR)
    for length in (900, 1000, 1100):
        seconds = 1.5 * PRIOR.predict(1, 0, length)
        learning.take(measured(learning, 1, 0, length, seconds))
    assert learning.is_due
    model = learning.refit()
    for length in (100, 1000, 10_000):
        for history in (0, 3000):
            expected = 1.5 * PRIOR.predict(1, history, length)
            assert model.predict(1, history, length) == pytest.approx(expected, rel=1e-6)


def test_sizes_that_were_never_measured_follow_the_nearest_that_was() -> None:
    learning = Learning(PRIOR)
    for size, factor in ((1, 2.0), (4, 3.0)):
        for _ in range(3):
            seconds = factor * PRIOR.predict(size, 0, 1000)
            learning.take(measured(learning, size, 0, 1000, seconds))
    # Two chunks are no measurement of a size.
    for _ in range(2):
        learning.take(measured(learning, 8, 0, 1000, 9 * PRIOR.predict(8, 0, 1000)))
    model = learning.refit()
    factors = {
        size: model.predict(size, 0, 1000) / PRIOR.predict(size, 0, 1000) for size in PRIOR.sizes
    }
    assert factors == pytest.approx({1: 2.0, 2: 2.0, 4: 3.0, 8: 3.0, 16: 3.0})


def test_when_things_change_for_good_the_past_counts_no_more() -> None:
    learning, rng = Learning(PRIOR), random.Random(4)
    work(learning, 100, rng, sizes=(1,))
    slower = LatencyModel({1: TRUTH.curves[1].scaled(2.0)})
    errors = work(learning, 40, rng, truth=slower, sizes=(1,))
    assert median(errors[:3]) > 0.4
    assert median(errors[-20:]) < 0.07


def test_equal_requests_do_not_push_out_what_is_known_of_others() -> None:
    learning, rng = Learning(PRIOR), random.Random(5)
    work(learning, 100, rng, sizes=(1,))
    for _ in range(200):
        seconds = TRUTH.predict(1, 0, 500) * rng.gauss(1.0, 0.03)
        learning.take(measured(learning, 1, 0, 500, seconds))
        if learning.is_due:
            learning.refit()
    for history, length in ((0, 100), (0, 4000), (2000, 2000)):
        predicted = learning.model.predict(1, history, length)
        assert predicted == pytest.approx(TRUTH.predict(1, history, length), rel=0.12)


def test_chunks_that_one_member_held_up_say_nothing_of_their_size() -> None:
    learning = Learning(PRIOR)
    for _ in range(FRESH):
        seconds = 5 * PRIOR.predict(2, 0, 1000)
        learning.take(measured(learning, 2, 0, 1000, seconds, computes=(1.0, 5.0)))
    assert not learning.is_due
    assert learning.drift() == {}
    assert learning.refit() is PRIOR


def test_a_size_that_the_prior_does_not_know_is_ignored() -> None:
    learning = Learning(LatencyModel({1: PRIOR.curves[1]}))
    sample = Sample(2, 0, 100, 1.0)
    learning.take(Measured(Owner("r", 1), sample, 1.0, {"a": 1.0, "b": 1.0}))
    assert learning.drift() == {}


def test_a_refit_is_due_after_some_chunks_sooner_when_they_are_off() -> None:
    for factor, count in ((1.0, FRESH), (1.3, 3)):
        learning = Learning(PRIOR)
        for number in range(1, count + 1):
            seconds = factor * PRIOR.predict(1, 0, 1000)
            learning.take(measured(learning, 1, 0, 1000, seconds))
            assert learning.is_due == (number == count)
        learning.refit()
        assert not learning.is_due


def test_drift_is_told_against_the_model_that_made_the_plan() -> None:
    learning = Learning(PRIOR)
    seconds = 1.5 * PRIOR.predict(1, 0, 1000)
    late = measured(learning, 1, 0, 1000, seconds)
    for _ in range(3):
        learning.take(measured(learning, 1, 0, 1000, seconds))
    learning.refit()
    learning.take(late)
    assert learning.drift() == {1: pytest.approx(1.5)}
    for _ in range(8):
        learning.take(measured(learning, 1, 0, 1000, seconds))
    assert learning.drift() == {1: pytest.approx(1.0)}


def test_settled_what_was_learnt_is_the_prior_and_restarted_another_model_is() -> None:
    learning = Learning(PRIOR)
    work(learning, 60, random.Random(6), sizes=(1,))
    learning.settle()
    known = learning.model
    assert learning.refit().predict(16, 0, 1000) == pytest.approx(
        known.predict(16, 0, 1000), rel=0.1
    )
    learning.restart(PRIOR)
    assert learning.model is PRIOR
    assert learning.num_samples == {}


def test_chunks_that_are_all_off_alike_are_no_change_of_speed() -> None:
    learning = Learning(PRIOR)
    places = [(0, 100), (0, 700), (0, 3000), (1500, 1500), (0, 2000), (0, 300), (0, 1000)]
    for history, length in places:
        seconds = 2.0 * PRIOR.predict(1, history, length)
        learning.take(measured(learning, 1, history, length, seconds))
    model = learning.refit()
    for history, length in places:
        expected = 2.0 * PRIOR.predict(1, history, length)
        assert model.predict(1, history, length) == pytest.approx(expected, rel=1e-6)
