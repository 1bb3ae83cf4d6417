"""What clients ask of a simulated mesh."""

import math
import random
from dataclasses import dataclass

from common.messages import Sampling


@dataclass(frozen=True)
class Question:
    """A request: when it comes, how long it is, how many tokens it wants."""

    name: str
    arrival: float
    length: int
    max_tokens: int
    seed: int | None = None
    gateway: str = "gateway-0"
    patience: float = math.inf
    """Seconds after which its client leaves."""

    def sampling(self) -> Sampling:
        """A seed of its own."""
        return Sampling(seed=self.length if self.seed is None else self.seed)


def poisson(count: int, rate: float, seed: int) -> list[Question]:
    """Requests of 4 000 to 100 000 tokens, `rate` per second on average."""
    rng, now, questions = random.Random(seed), 0.0, []
    for number in range(count):
        now += rng.expovariate(rate)
        length, max_tokens = rng.randint(4_000, 100_000), rng.randint(2, 200)
        questions.append(Question(f"r{number}", now, length, max_tokens))
    return questions
