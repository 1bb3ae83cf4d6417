"""What is asked and when: prompts cut from a text, arrivals of a Poisson process. Pure."""

import importlib.util
import math
import random
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path


@dataclass(frozen=True)
class Job:
    """One request to come."""

    at: float
    """Seconds after the start."""
    prompt: str


def default_text() -> str:
    """Python's own language reference, at hand on every machine."""
    spec = importlib.util.find_spec("pydoc_data.topics")
    if spec is None or spec.origin is None:
        raise OSError("this Python has no pydoc_data.topics; name a text")
    return Path(spec.origin).read_text(encoding="utf-8")


def make_jobs(text: str, count: int, rate: float, chars: tuple[int, int], seed: int) -> list[Job]:
    """Jobs in order of arrival; the same seed gives the same jobs.

    The rate is in requests per second, an infinite one sends all at once; `chars` are the lengths
    of the shortest and the longest prompt.
    """
    rng = random.Random(seed)
    gaps = [0.0 if math.isinf(rate) else rng.expovariate(rate) for _ in range(count)]
    return [Job(at, _cut(text, rng.randint(*chars), rng)) for at in accumulate(gaps)]


def _cut(text: str, length: int, rng: random.Random) -> str:
    start = rng.randrange(len(text))
    whole = text[start:] + text * (length // len(text) + 1)
    return whole[:length]
