from itertools import pairwise

import pytest
import torch

from common.tensor.attention import Partial, merge, merge_into, partial_attention

SCALE = 0.125


def tensors(length, keys, heads=6, groups=2, dim=64, dtype=torch.float32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    q = torch.randn(heads, length, dim, generator=generator).to(dtype)
    k, v = (torch.randn(groups, keys, dim, generator=generator).to(dtype) for _ in range(2))
    return q, k, v


def dense(q, k, v, mask=None) -> Partial:
    """Attention in float64, as the formula reads."""
    q, k, v = q.double(), k.double(), v.double()
    k, v = (x.repeat_interleave(q.shape[0] // x.shape[0], dim=0) for x in (k, v))
    scores = q @ k.transpose(1, 2) * SCALE
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf)
    return Partial(scores.softmax(-1) @ v, scores.logsumexp(-1))


def check(actual: Partial, expected: Partial, tolerance: float) -> None:
    assert actual.out.dtype == actual.lse.dtype == torch.float32
    torch.testing.assert_close(actual.out.double(), expected.out, rtol=0, atol=tolerance)
    torch.testing.assert_close(actual.lse.double(), expected.lse, rtol=0, atol=tolerance)


@pytest.mark.parametrize(("length", "keys"), [(1, 1), (1, 300), (2, 1), (33, 257), (300, 5)])
@pytest.mark.parametrize("groups", [1, 2, 6])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 3e-6), (torch.bfloat16, 2e-2)])
def test_full_attention_equals_the_formula(length, keys, groups, dtype, tolerance):
    q, k, v = tensors(length, keys, groups=groups, dtype=dtype)
    actual = partial_attention(q, k, v, causal=False, scale=SCALE)
    check(actual, dense(q, k, v), tolerance)


@pytest.mark.parametrize("length", [1, 2, 63, 300])
def test_causal_attention_equals_the_formula(length):
    q, k, v = tensors(length, length)
    mask = torch.ones(length, length, dtype=torch.bool).tril()
    check(partial_attention(q, k, v, causal=True, scale=SCALE), dense(q, k, v, mask), 3e-6)


def test_strided_keys_need_no_copy():
    q, k, v = tensors(7, 20)
    strided = [x.transpose(0, 1).contiguous().transpose(0, 1) for x in (k, v)]
    assert not strided[0].is_contiguous()
    check(partial_attention(q, *strided, causal=False, scale=SCALE), dense(q, k, v), 3e-6)


def parts(q, k, v, cuts):
    edges = [0, *cuts, k.shape[1]]
    return [
        partial_attention(q, k[:, a:b], v[:, a:b], causal=False, scale=SCALE)
        for a, b in pairwise(edges)
    ]


@pytest.mark.parametrize("cuts", [[1], [100], [3, 4, 150]])
@pytest.mark.parametrize("factor", [1, 30])
def test_merged_parts_equal_attention_over_all_keys(cuts, factor):
    q, k, v = tensors(9, 200)
    q = q * factor
    merged, *others = parts(q, k, v, cuts)
    for part in others:
        merged = merge(merged, part)
    check(merged, dense(q, k, v), 3e-6 * factor)


def test_merge_leaves_its_inputs_alone_and_merge_into_changes_only_the_first():
    q, k, v = tensors(9, 200)
    a, b = parts(q, k, v, [50])
    before = [x.clone() for x in (*a, *b)]
    merged = merge(a, b)
    assert all(torch.equal(x, y) for x, y in zip((*a, *b), before, strict=True))
    merge_into(a, b)
    assert torch.equal(a.out, merged.out) and torch.equal(a.lse, merged.lse)
    assert torch.equal(b.out, before[2]) and torch.equal(b.lse, before[3])


def test_a_part_without_weight_changes_nothing():
    out, lse = torch.randn(2, 3, 4), torch.zeros(2, 3)
    merged = merge(Partial(out, lse), Partial(torch.randn(2, 3, 4), lse - torch.inf))
    assert torch.equal(merged.out, out) and torch.equal(merged.lse, lse)
