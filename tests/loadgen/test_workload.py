import math

from loadgen.workload import default_text, make_jobs


def test_arrivals_are_a_poisson_process_of_the_rate() -> None:
    jobs = make_jobs("text", 4000, rate=8.0, chars=(1, 1), seed=1)
    times = [job.at for job in jobs]
    gaps = [b - a for a, b in zip([0.0, *times], times, strict=False)]
    assert times == sorted(times)
    mean = sum(gaps) / len(gaps)
    spread = math.sqrt(sum((gap - mean) ** 2 for gap in gaps) / len(gaps))
    assert abs(mean - 1 / 8) < 0.01
    assert abs(spread / mean - 1) < 0.1


def test_prompts_have_their_lengths_even_beyond_the_text() -> None:
    jobs = make_jobs("abc", 200, rate=math.inf, chars=(1, 10), seed=2)
    assert {len(job.prompt) for job in jobs} == set(range(1, 11))
    assert all(job.prompt in "abc" * 5 for job in jobs)
    assert {job.at for job in jobs} == {0.0}


def test_a_text_is_at_hand() -> None:
    assert len(default_text()) > 100_000
