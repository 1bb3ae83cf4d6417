"""How a generation goes on and when it ends, judged on token ids; shared by prefill and decode."""

from collections.abc import Collection
from dataclasses import dataclass

from common.messages import Alternative, Ending, Finish


@dataclass(frozen=True)
class Sampled:
    """One drawn token, with natural log-probabilities when they were asked for."""

    id: int
    logprob: float | None = None
    top: tuple[Alternative, ...] = ()


def stops(ending: Ending, eos_ids: Collection[int]) -> frozenset[int]:
    """Token ids that end the generation."""
    return frozenset(ending.stop_token_ids).union(() if ending.ignore_eos else eos_ids)


def forbidden(ending: Ending, eos_ids: Collection[int], num_emitted: int) -> frozenset[int]:
    """Ids that must not follow `num_emitted` tokens: none may end it before `min_tokens`."""
    return stops(ending, eos_ids) if num_emitted < ending.min_tokens else frozenset()


def finish(ending: Ending, eos_ids: Collection[int], last: int, num_emitted: int) -> Finish | None:
    """Why the generation is over after `num_emitted` tokens of this attempt, or None."""
    if last in stops(ending, eos_ids):
        return "stop"
    return "length" if num_emitted >= ending.max_tokens else None
