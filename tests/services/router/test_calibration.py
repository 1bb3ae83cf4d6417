import pytest

from common.latency import LatencyModel, Sample
from services.router.calibration import LONGEST, MAX_FAILURES, Calibration, Order
from services.router.forced import parse

MODEL = LatencyModel.load("cpu-smollm2-135m")


def run(calibration, truth, most=100_000):
    """Every prompt that is ordered, with the seconds it takes."""
    done = []
    while (
        not calibration.is_over
        and (order := calibration.next(MODEL, lambda size: most)) is not None
    ):
        chunks = parse(order.plan, order.length, MODEL)
        samples = [
            Sample(
                chunk.size,
                chunk.history,
                chunk.length,
                truth.predict(chunk.size, chunk.history, chunk.length),
            )
            for chunk in chunks
        ]
        for sample in samples:
            calibration.take(sample)
        seconds = sum(sample.seconds for sample in samples)
        calibration.over(seconds, is_interrupted=False)
        done.append((order, samples, seconds))
    return done


def test_every_size_gets_short_middle_and_long_prompts_and_one_with_history():
    done = run(Calibration(20.0, (1, 2)), MODEL)
    for size in (1, 2):
        mine = [samples for order, samples, _ in done if order.size == size]
        assert len(mine) == 6
        assert any(sample.history > 500 for samples in mine for sample in samples)
        seconds = [sample.seconds for samples in mine for sample in samples]
        assert min(seconds) < 0.3
        assert 2.5 < max(seconds) <= LONGEST
    assert sum(seconds for _, _, seconds in done) < 20.0


@pytest.mark.parametrize("factor", [0.2, 1.0, 5.0])
def test_lengths_follow_what_has_been_measured(factor):
    calibration = Calibration(20.0, (1, 2))
    done = run(calibration, MODEL.scaled(factor))
    assert calibration.spent == pytest.approx(sum(seconds for _, _, seconds in done))
    assert calibration.spent < 20.0
    assert max(seconds for _, _, seconds in done) < LONGEST * 1.05


def test_many_sizes_share_the_time():
    done = run(Calibration(10.0, (1, 2, 4, 8)), MODEL)
    assert {order.size for order, _, _ in done} == {1, 2, 4, 8}
    assert sum(seconds for _, _, seconds in done) < 10.0


def test_prompts_are_no_longer_than_the_model_takes_and_leave_nobody_without_tokens():
    orders = [order for order, _, _ in run(Calibration(20.0, (1, 2)), MODEL, most=500)]
    assert max(order.length for order in orders) <= 500
    tiny = [order for order, _, _ in run(Calibration(0.01, (1, 8)), MODEL)]
    assert tiny
    assert min(min(order.lengths) // order.size for order in tiny) >= 2


def test_an_interrupted_prompt_comes_again():
    calibration = Calibration(20.0, (1,))
    first = calibration.next(MODEL, lambda size: 1000)
    calibration.over(0.5, is_interrupted=True)
    assert calibration.next(MODEL, lambda size: 1000) == first
    assert calibration.spent == 0.5
    assert calibration.progress == "0 of 6 prompts"
    calibration.over(0.5, is_interrupted=False)
    assert calibration.progress == "1 of 6 prompts"


def test_without_success_or_time_or_room_it_ends():
    failing = Calibration(20.0, (1, 2))
    for number in range(MAX_FAILURES):
        assert not failing.is_over
        failing.over(0.1, is_interrupted=False)
        assert failing.is_over == (number == MAX_FAILURES - 1)
    slow = Calibration(20.0, (1, 2))
    slow.over(20.0, is_interrupted=False)
    assert slow.is_over
    assert slow.next(MODEL, lambda size: 1000) is None
    narrow = Calibration(20.0, (1, 2))
    while not narrow.is_over:
        narrow.skip()
    assert narrow.next(MODEL, lambda size: 1000) is None


def test_an_order_says_its_plan():
    assert Order(2, (100, 50)).plan == "2:100,2"
    assert Order(1, (64,)).plan == "1"
    assert Order(2, (100, 50)).length == 150
