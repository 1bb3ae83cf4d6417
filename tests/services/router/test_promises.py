import random
from array import array

import pytest

from common.messages import Ending, Peer, Sampling, Submit
from services.router.promises import GRACE, HORIZON, SHARE, Promises, fingerprint


def key(number):
    return number.to_bytes(16, "big")


def submit_of(max_tokens=10, choice=0, name="r"):
    gateway, sampling = Peer("g", 1, "in-g"), Sampling(choice=choice)
    return Submit(name, 1, gateway, 3, 0, sampling, Ending(max_tokens=max_tokens))


def test_somebody_who_is_refused_may_come_at_his_time_and_for_a_while_after():
    promises = Promises()
    after = promises.make(key(1), 0.1, least=4.5, now=100.0)
    assert after == 5.0
    assert not promises.is_due(key(1), 100.0 + after - 0.001)
    assert promises.is_due(key(1), 100.0 + after)
    assert not promises.is_due(key(2), 100.0 + after)
    assert promises.is_due(key(1), 100.0 + after + GRACE - 0.001)
    assert not promises.is_due(key(1), 100.0 + after + GRACE + 1.0)
    assert len(promises) == 0


def test_a_promise_is_redeemed_once():
    promises = Promises()
    after = promises.make(key(1), 0.1, 1.0, 0.0)
    promises.redeem(key(1), after)
    assert not promises.is_due(key(1), after)
    assert promises.returning == 1.0


def test_whoever_asks_again_too_early_hears_the_same_time_and_books_nothing_more():
    promises = Promises()
    due = promises.make(key(1), 0.5, 20.0, 0.0)
    for now in (0.125, 1.0, 7.25):
        assert now + promises.make(key(1), 0.5, 20.0, now) == due
    assert len(promises) == 1
    # The second has room for half of that: the next one is asked to come later.
    assert 8.0 + promises.make(key(2), 0.5, 12.0, 8.0) == due + 1.0


def test_whoever_finds_no_room_in_his_time_gets_another_one():
    promises = Promises()
    after = promises.make(key(1), 0.1, 1.0, 0.0)
    again = promises.make(key(1), 0.1, 1.0, after + 0.5)
    assert again >= 1.0
    assert promises.is_due(key(1), after + 0.5 + again)
    assert len(promises) == 1


@pytest.mark.parametrize("seed", range(20))
def test_no_stretch_of_time_is_promised_more_than_it_has(seed):
    rng, promises = random.Random(seed), Promises()
    dues, now = [], 0.0
    for number in range(400):
        now += rng.expovariate(100)
        work = rng.choice((0.01, 0.1, 0.4, 3.0))
        dues.append((round(now + promises.make(key(number), work, 0.0, now)), work))
    largest = max(work for _, work in dues)
    seconds = sorted({due for due, _ in dues})
    assert seconds[-1] > 100
    for place, begin in enumerate(seconds):
        for end in seconds[place:]:
            promised = sum(work for due, work in dues if begin <= due <= end)
            # What a second begins it may finish later, with the last request of it.
            assert promised <= SHARE * (end - begin + 1) + largest


def test_later_ones_get_later_times():
    promises = Promises()
    times = [promises.make(key(number), 0.4, 1.0, 0.0) for number in range(200)]
    assert times == sorted(times)
    assert times[-1] == pytest.approx(200 * 0.4 / SHARE, rel=0.35)


def test_promises_that_nobody_redeems_keep_nothing_from_others():
    promises, now, number = Promises(), 0.0, 0
    waits = []
    while now < 120.0:
        number, now = number + 1, now + 0.1
        waits.append(promises.make(key(number), 0.5, 1.0, now))
    assert max(waits[:200]) > 20.0
    assert promises.returning < 0.1
    assert max(waits[-200:]) < 3.0


def test_the_share_of_those_who_return_is_learnt():
    promises, rng, now = Promises(), random.Random(1), 0.0
    due = {}
    for number in range(4000):
        now += 0.05
        after = promises.make(key(number), 0.001, 1.0, now)
        if rng.random() < 0.3:
            due[key(number)] = now + after
        for name in [name for name, time in due.items() if time <= now]:
            assert promises.is_due(name, now)
            promises.redeem(name, now)
            del due[name]
    assert promises.returning == pytest.approx(0.3, abs=0.25)


def test_whoever_comes_late_but_in_time_is_counted_after_all():
    promises = Promises()
    for number in range(100):
        promises.make(key(number), 0.001, 1.0, 0.0)
    promises.is_due(key(0), 1.0 + GRACE / 2)
    assert promises.returning < 0.1
    for number in range(100):
        assert promises.is_due(key(number), 1.0 + GRACE / 2)
        promises.redeem(key(number), 1.0 + GRACE / 2)
    assert promises.returning > 0.9


def test_never_more_than_so_many_are_held_and_those_keep_what_they_were_told():
    promises = Promises(limit=50)
    first = {key(number): promises.make(key(number), 0.01, 5.0, 0.0) for number in range(50)}
    for number in range(50, 5000):
        assert promises.make(key(number), 10.0, 5.0, 1.0) >= 5.0
        assert len(promises) == 50
    assert all(promises.is_due(name, after) for name, after in first.items())
    assert not promises.is_due(key(50), HORIZON)


def test_nobody_is_sent_away_for_longer_than_the_horizon():
    promises = Promises()
    assert promises.make(key(1), 1e9, 1e9, 0.0) <= HORIZON
    for number in range(2, 100):
        assert 1.0 <= promises.make(key(number), 1e9, -1e9, 0.5) <= HORIZON + 1


@pytest.mark.parametrize("seed", range(10))
def test_whatever_happens_the_books_agree_with_each_other(seed):
    rng, promises, now = random.Random(seed), Promises(limit=30), rng_start(seed)
    for _ in range(2000):
        now += rng.choice((0.0, 0.01, 0.5, 3.0, 3.0 * HORIZON if rng.random() < 0.01 else 0.1))
        name = key(rng.randrange(60))
        match rng.randrange(3):
            case 0:
                after = promises.make(name, rng.random(), rng.uniform(-5, 50), now)
                assert 0.0 < after <= HORIZON + 51
            case 1:
                promises.is_due(name, now)
            case 2:
                promises.redeem(name, now)
                assert not promises.is_due(name, now)
        assert len(promises) <= 30
        assert 0.0 <= promises.returning <= 1.0
        held = [one for names in promises._seconds.values() for one in names]
        assert sorted(held) == sorted(promises._promises)
        assert promises._work.keys() == promises._seconds.keys()
        assert min(promises._work.values(), default=0.0) > -1e-9
        assert all(second >= now - GRACE - 1 for second in promises._seconds)
    now += HORIZON + 3 * GRACE
    assert not promises.is_due(key(0), now)
    assert len(promises) == len(promises._work) == 0


def rng_start(seed):
    """Monotonic clocks begin anywhere."""
    return 1e7 * seed + 0.3


def test_a_request_is_known_again_by_what_it_asks_for_and_not_by_its_name():
    ids = array("i", (1, 2, 3)).tobytes()
    known = fingerprint(submit_of(), ids)
    assert fingerprint(submit_of(name="other"), ids) == known
    others = [
        fingerprint(submit_of(), array("i", (1, 2, 4)).tobytes()),
        fingerprint(submit_of(max_tokens=11), ids),
        fingerprint(submit_of(choice=1), ids),
    ]
    assert len({known, *others}) == 4
    assert len(known) == 16
