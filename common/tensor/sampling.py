"""Which token comes next: a pure function of (seed, choice, position, ids so far, logits).

Randomness is a hash, not the state of a generator: another attempt, another worker or another
batch draws the same token from the same logits. Every id has a number of its own at every
position, and the ids run a race (Gumbel's trick): noise in the logits changes the winner only
where two come in at the same time. One number looked up in cumulated probabilities would not do:
unlikely ids are narrower there than what the noise of the likely ones before them moves.

Biases come first, then penalties, temperature and filters, as in vLLM; a greedy draw has the
first two as well.
"""

import hashlib
import struct
from collections.abc import Collection

import torch
from torch import Tensor

from common.errors import RequestFailed
from common.generation import Sampled
from common.messages import Alternative, Sampling
from common.past import Past

LOWEST = -1e9
"""Log-probability reported for what is impossible."""


def sample(
    logits: Tensor,
    sampling: Sampling,
    position: int,
    forbidden: Collection[int] = (),
    past: Past | None = None,
) -> Sampled:
    """Draw the token at `position` of the whole sequence.

    Args:
        logits: [vocab] float32; not changed.
        sampling: how to draw.
        position: absolute, of the token that is drawn.
        forbidden: ids that must not be drawn.
        past: the ids before `position`, where `sampling.looks_back`.

    Raises:
        RequestFailed: the logits are not numbers.
    """
    allowed = logits
    # A client may name ids that the model does not have: they cannot be drawn anyway.
    if known := [token for token in forbidden if token < logits.numel()]:
        allowed = logits.index_fill(0, torch.tensor(known), -torch.inf)
    if sampling.biases:
        allowed = _biased(allowed, sampling)
    if past is not None:
        allowed = _penalised(allowed, sampling, past)
    highest, best = allowed.max(0)
    if not torch.isfinite(highest):
        raise RequestFailed(f"the model's logits at position {position} are not finite")
    if sampling.temperature == 0:
        chosen = int(best)
    else:
        weights = _filtered(
            (allowed.double() - highest).div_(sampling.temperature).exp_(), sampling
        )
        chosen = _race(weights, key(sampling.seed, sampling.choice, position))
    if sampling.logprobs < 0:
        return Sampled(chosen)
    return _with_logprobs(logits, chosen, sampling.logprobs)


def key(seed: int, choice: int, position: int) -> int:
    """64 random bits that depend on the three arguments alone."""
    digest = hashlib.blake2b(struct.pack("<QQQ", seed, choice, position), digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True)


def _biased(logits: Tensor, sampling: Sampling) -> Tensor:
    size = logits.numel()
    known = [(bias.id, bias.value) for bias in sampling.biases if bias.id < size]
    ids = torch.tensor([token for token, _ in known], dtype=torch.long)
    return logits.index_add(0, ids, torch.tensor([value for _, value in known]).to(logits))


def _penalised(logits: Tensor, sampling: Sampling, past: Past) -> Tensor:
    """Logits after the penalties for what was seen, and for what was emitted and how often.

    Source:
        Keskar et al. 2019 (arXiv 1909.05858), section 4.1, for the first.
    """
    size = logits.numel()
    seen = torch.from_numpy(past.seen())
    seen = seen[(seen >= 0) & (seen < size)]
    rows = logits[seen]
    penalty = sampling.repetition_penalty
    rows = torch.where(rows > 0, rows / penalty, rows * penalty)
    ids, counts = (torch.from_numpy(part) for part in past.emitted())
    known = (ids >= 0) & (ids < size)
    minus = counts[known] * sampling.frequency_penalty + sampling.presence_penalty
    return logits.index_copy(0, seen, rows).index_add(0, ids[known], -minus.to(logits))


def _filtered(weights: Tensor, sampling: Sampling) -> Tensor:
    """Unnormalised probabilities, the largest 1, with zeros where the filters cut.

    The order is min-p, top-k, top-p; equal weights stay or go together.
    """
    cut = sampling.min_p
    if 0 < sampling.top_k < weights.numel():
        cut = max(cut, float(weights.topk(sampling.top_k).values[-1]))
    if cut > 0:
        weights = torch.where(weights < cut, 0.0, weights)
    if sampling.top_p < 1:
        weights = torch.where(weights < _nucleus(weights, sampling.top_p), 0.0, weights)
    return weights


def _nucleus(weights: Tensor, top_p: float) -> float:
    """The smallest weight of the fewest tokens that hold `top_p` of the mass.

    Looks at the largest few first: the whole vocabulary is sorted only for flat distributions.
    """
    mass = float(weights.sum()) * top_p
    size = min(64, weights.numel())
    while True:
        largest = weights.topk(size).values
        enough = int(torch.searchsorted(largest.cumsum(0), mass))
        if enough < size or size == weights.numel():
            return float(largest[min(enough, size - 1)])
        size = min(size * 16, weights.numel())


def _race(weights: Tensor, key: int) -> int:
    """An id with the probability of its weight: the first of arrivals with the weights as rates."""
    ids = weights.nonzero()[:, 0]
    return int(ids[(_exponential(ids, key) / weights[ids]).argmin()])


def _exponential(ids: Tensor, key: int) -> Tensor:
    """Exponentially distributed numbers of mean 1, float64, each of its id and the key alone.

    Integer arithmetic on 64 bits, so that every device and every version makes the same bits.

    Source:
        SplitMix64: Steele, Lea and Flood 2014, with its constants.
    """
    bits = (ids + 1).mul_(-0x61C8864680B583EB).add_(key)
    bits = _mixed(bits, 30).mul_(-0x40A7B892E31B1A47)
    bits = _mixed(bits, 27).mul_(-0x6B2FB644ECCEEE15)
    bits = _mixed(bits, 31)
    # 53 of them, in the middle of their interval: neither 0 nor 1.
    return ((bits >> 11) & (2**53 - 1)).double().add_(0.5).mul_(2.0**-53).log_().neg_()


def _mixed(bits: Tensor, shift: int) -> Tensor:
    """The bits xor themselves shifted to the right, as if they had no sign."""
    mixed: Tensor = bits ^ ((bits >> shift) & (2 ** (64 - shift) - 1))
    return mixed


def _with_logprobs(logits: Tensor, chosen: int, num_top: int) -> Sampled:
    """Log-probabilities of the distribution before temperature and filters."""
    logprobs = logits.double().log_softmax(0).clamp_(min=LOWEST)
    values, ids = logprobs.topk(min(num_top, logits.numel()))
    top = tuple(Alternative(i, p) for i, p in zip(ids.tolist(), values.tolist(), strict=True))
    return Sampled(chosen, float(logprobs[chosen]), top)
