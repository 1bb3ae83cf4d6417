import pytest
import torch

from common.errors import ConfigError, WireError
from common.messages import KvLayout
from common.pages import Span
from common.tensor.kv_cache import KvCache, pack, unpack

LAYOUT = KvLayout(num_layers=2, num_kv_heads=3, head_dim=4, dtype="bfloat16")
SPANS = [Span(20, 25), Span(3, 6)]


def filled():
    cache = KvCache(LAYOUT, 2)
    cache.keys.zero_()
    cache.values.zero_()
    keys, values = torch.randn(2, 8, 3, 4).bfloat16()
    cache.write(1, SPANS, keys, values)
    return cache, keys, values


def test_what_is_written_is_read_in_the_same_order_and_in_that_layer_alone():
    cache, keys, values = filled()
    read = cache.read(1, SPANS)
    assert torch.equal(read[0], keys) and torch.equal(read[1], values)
    assert read[0].is_contiguous() and read[1].is_contiguous()
    assert torch.equal(cache.keys[1, 3:6], keys[5:])
    assert not cache.keys[0].any() and cache.keys[1].any(-1).any(-1).sum() == 8


def test_views_share_memory_and_reads_do_not():
    cache, keys, _ = filled()
    (view, _), _ = cache.views(1, SPANS)
    read = cache.read(1, SPANS[:1])[0]
    gathered = cache.gather(1, SPANS[:1])[0]
    cache.keys.zero_()
    assert not view.any() and not gathered.any()
    assert torch.equal(read, keys[:5])


def test_gather_joins_several_spans():
    cache, keys, values = filled()
    gathered = cache.gather(1, SPANS)
    assert torch.equal(gathered[0], keys) and torch.equal(gathered[1], values)


def test_no_spans_hold_no_tokens():
    cache, _, _ = filled()
    assert [x.shape for x in cache.read(0, [])] == [(0, 3, 4)] * 2
    assert [x.shape for x in cache.gather(0, [])] == [(0, 3, 4)] * 2


@pytest.mark.parametrize("count", [0, 1, 8])
def test_unpack_undoes_pack(count):
    _, keys, _ = filled()
    frame = pack(keys[:count])
    assert frame.nbytes == count * 3 * 4 * 2
    assert torch.equal(unpack(frame, LAYOUT, count), keys[:count])


def test_views_are_packed_in_the_order_of_their_tokens():
    cache, keys, _ = filled()
    (view, _), _ = cache.views(1, SPANS)
    assert pack(view) == pack(keys[:5].contiguous())


@pytest.mark.parametrize("size", [0, 1, 47, 49, 96])
def test_a_frame_of_another_size_is_refused(size):
    with pytest.raises(WireError, match="48 expected"):
        unpack(memoryview(bytearray(size)), LAYOUT, 2)


def test_more_pages_than_memory_are_a_wrong_configuration():
    with pytest.raises(ConfigError, match="kv_tokens: no memory"):
        KvCache(LAYOUT, 2**40)
