import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from common.errors import LinkTimeout, WireError
from common.links.zmq import ZmqLink
from common.messages import KvLayout, RingBlock, RingReady
from common.sharding import history, shards
from services.prefill_worker import ring as ring_module
from services.prefill_worker.aborts import Aborts
from services.prefill_worker.mailbox import Key, Mailbox
from services.prefill_worker.ring import Ring
from services.prefill_worker.zigzag import Block
from tests.services.prefill_worker.plans import members_at, plan, run_chunk

HEADS, GROUPS, DIM = 6, 2, 16
SCALE = DIM**-0.5
LAYERS = 2
LAYOUT = KvLayout(LAYERS, GROUPS, DIM, "float32")


@pytest.fixture
def boxes(tmp_path):
    boxes = [Mailbox(ZmqLink(f"ipc://{tmp_path}/{rank}", 5), Aborts()) for rank in range(4)]
    yield boxes
    for box in boxes:
        box.link.close()


def rings(boxes, chunks, step_timeout=20.0):
    """The ring of the last chunk, as each of its members sees it."""
    endpoints = [box.link.endpoint for box in boxes]
    index = len(chunks) - 1
    made = []
    for rank in range(chunks[-1].size):
        run = run_chunk(chunks, index, rank, members_at(endpoints, endpoints))
        boxes[rank].begin(run)
        made.append(Ring(boxes[rank], run, LAYOUT, step_timeout))
    return made


def positions(intervals):
    return [position for interval in intervals for position in range(*interval)]


def sequence(length):
    generator = torch.Generator().manual_seed(length)
    shapes = [(LAYERS, heads, length, DIM) for heads in (HEADS, GROUPS, GROUPS)]
    return [torch.randn(*shape, generator=generator) for shape in shapes]


def dense(q, k, v):
    """Causal attention of a whole sequence in float64: [T, H, D]."""
    k, v = (x.double().repeat_interleave(HEADS // GROUPS, dim=0) for x in (k, v))
    length = q.shape[1]
    scores = q.double() @ k.transpose(1, 2) * SCALE
    mask = torch.ones(length, length, dtype=torch.bool).tril()
    return (scores.masked_fill(~mask, -torch.inf).softmax(-1) @ v).transpose(0, 1)


def attend_all(made, chunks, q, k, v):
    """What every member computes, by layer and prompt position."""
    chunk, held = chunks[-1], history(chunks, len(chunks) - 1)

    def member(rank):
        own = positions(shards(chunk, rank))
        lies = positions(held[rank]) + own
        made[rank].gather(20)
        outs = []
        for layer in range(LAYERS):
            block = Block(*(x[layer][:, lies].transpose(0, 1).contiguous() for x in (k, v)))
            outs.append(made[rank].attend(layer, q[layer][:, own], block, SCALE))
        return own, outs

    with ThreadPoolExecutor(len(made)) as pool:
        return list(pool.map(member, range(len(made))))


PLANS = [
    *(((length, size),) for size in (1, 2, 4) for length in (1, 2, 3, 7, 8, 64, 131)),
    ((40, 1), (1, 2)),
    ((37, 1), (90, 2)),
    ((37, 2), (91, 2)),
    ((3, 1), (50, 4)),
    ((64, 2), (3, 4)),
    ((1, 1), (1, 2), (1, 4)),
    ((100, 1), (57, 2), (31, 4)),
]


@pytest.mark.parametrize("parts", PLANS, ids=str)
def test_every_position_attends_to_all_before_it(boxes, parts):
    chunks = plan(*parts)
    chunk = chunks[-1]
    q, k, v = sequence(chunk.history + chunk.length)
    seen = []
    for own, outs in attend_all(rings(boxes, chunks), chunks, q, k, v):
        seen += own
        for layer, out in enumerate(outs):
            expected = dense(q[layer], k[layer], v[layer])[own]
            assert out.shape == expected.shape
            torch.testing.assert_close(out.double(), expected, rtol=0, atol=3e-6)
    assert sorted(seen) == list(range(chunk.history, chunk.history + chunk.length))
    assert all(box.dropped == 0 for box in boxes)


def test_seconds_of_waiting_for_a_late_member_are_counted(boxes):
    made = rings(boxes, plan((8, 2)))
    first = threading.Thread(target=made[0].gather, args=(20,))
    first.start()
    late = boxes[1].link
    assert late.receive(20) == (RingReady("r", 1, 0, 0, 1), [])
    assert late.receive(0.1) is None
    late.send(boxes[0].link.endpoint, RingReady("r", 1, 0, 1, 2))
    first.join()
    assert boxes[0].waited > 0.05


def test_a_member_whose_coming_got_lost_on_the_way_is_asked(boxes, monkeypatch):
    monkeypatch.setattr(ring_module, "AGAIN", 0.05)
    made = rings(boxes, plan((8, 2)))
    block = Key(RingBlock, "r", 1, 0, 1, 2)

    def begin():
        made[0].gather(20)
        return boxes[0].take(block, 20)

    with ThreadPoolExecutor(1) as thread:
        begun = thread.submit(begin)
        assert boxes[1].link.receive(20) == (RingReady("r", 1, 0, 0, 1), [])  # and it is lost
        made[1].gather(20)
        sent = RingBlock("r", 1, 0, 0, 0, 1, 0, 2)
        boxes[1].link.send(boxes[0].link.endpoint, sent, b"keys", b"values")
        assert begun.result(20) == [b"keys", b"values"]
    assert boxes[0].dropped == 0


def test_a_group_that_is_not_complete_is_a_timeout(boxes):
    with pytest.raises(LinkTimeout, match="RingReady of rank 1"):
        rings(boxes, plan((8, 4)))[0].gather(0.2)


def test_a_member_that_falls_silent_is_a_timeout(boxes):
    chunks = plan((8, 2))
    ring = rings(boxes, chunks, step_timeout=0.2)[0]
    q, k, v = sequence(8)
    block = Block(*(x[0][:, [0, 1, 6, 7]].transpose(0, 1).contiguous() for x in (k, v)))
    with pytest.raises(LinkTimeout, match="RingBlock of rank 1, layer 0, step 0"):
        ring.attend(0, q[0][:, [0, 1, 6, 7]], block, SCALE)


def test_a_block_of_another_size_than_planned_is_refused(boxes):
    ring = rings(boxes, plan((8, 2)))[0]
    boxes[1].link.send(
        boxes[0].link.endpoint, RingBlock("r", 1, 0, 0, 0, 1, 0, 2), b"x" * 12, b"y" * 12
    )
    q, k, v = sequence(8)
    block = Block(*(x[0][:, [0, 1, 6, 7]].transpose(0, 1).contiguous() for x in (k, v)))
    with pytest.raises(WireError, match="12 bytes for 4 tokens"):
        ring.attend(0, q[0][:, [0, 1, 6, 7]], block, SCALE)
