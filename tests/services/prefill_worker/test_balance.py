import threading

import pytest
import torch

from common.errors import LinkTimeout, WireError
from common.links.zmq import ZmqLink
from common.messages import BalanceBlock, KvLayout
from common.pages import PagePool
from common.tensor.kv_cache import KvCache
from services.prefill_worker.aborts import Aborts
from services.prefill_worker.balance import AHEAD, Balance
from services.prefill_worker.holdings import Holdings
from services.prefill_worker.mailbox import Mailbox
from tests.services.prefill_worker.plans import members_at, plan, run_chunk

LAYOUT = KvLayout(num_layers=8, num_kv_heads=2, head_dim=4, dtype="float32")


class Member:
    """One member before its second chunk, with KV in the slots of its first."""

    def __init__(self, endpoints, boxes, chunks, rank, step_timeout=10.0):
        torch.manual_seed(rank)
        self.link = boxes[rank].link
        self.cache = KvCache(LAYOUT, 16)
        self.cache.keys.normal_()
        self.cache.values.normal_()
        members = members_at(endpoints, endpoints)
        holdings = Holdings(PagePool(16))
        if rank < chunks[0].size:
            holdings.open(run_chunk(chunks, 0, rank, members))
        run = run_chunk(chunks, 1, rank, members)
        self.slots = holdings.open(run)
        boxes[rank].begin(run)
        self.balance = Balance(boxes[rank], run, self.slots, self.cache, step_timeout)


@pytest.fixture
def boxes(tmp_path):
    boxes = [Mailbox(ZmqLink(f"ipc://{tmp_path}/{rank}", 5), Aborts()) for rank in range(4)]
    yield boxes
    for box in boxes:
        box.link.close()


def group(boxes, chunks, **changes):
    endpoints = [box.link.endpoint for box in boxes]
    return [Member(endpoints, boxes, chunks, rank, **changes) for rank in range(chunks[1].size)]


@pytest.mark.parametrize(
    "parts", [((60, 1), (9, 2)), ((61, 1), (9, 4)), ((50, 2), (9, 3)), ((90, 2), (9, 4))], ids=str
)
def test_history_arrives_layer_by_layer_in_the_slots_set_aside_for_it(boxes, parts):
    members = group(boxes, plan(*parts))
    for layer in range(LAYOUT.num_layers):
        for member in members:
            member.balance.advance(layer)
        for sender in members:
            for move, spans in sender.slots.given:
                receiver = members[move.receiver]
                target = dict(receiver.slots.taken)[move]
                for sent, arrived in zip(
                    sender.cache.read(layer, spans),
                    receiver.cache.read(layer, target),
                    strict=True,
                ):
                    assert len(sent) > 0 and torch.equal(sent, arrived)
    assert sum(len(member.slots.taken) for member in members) >= 1
    assert all(box.dropped == 0 for box in boxes)


def test_old_members_send_a_few_layers_ahead_and_no_more(boxes):
    old, _ = group(boxes, plan((60, 1), (9, 2)))
    old.balance.advance(0)
    layers = [boxes[1].link.receive(5)[0].layer for _ in range(AHEAD + 1)]
    assert layers == list(range(AHEAD + 1))
    assert boxes[1].link.receive(0.1) is None


def test_a_new_member_waits_for_its_history_and_counts_the_seconds(boxes):
    old, new = group(boxes, plan((60, 1), (9, 2)))
    timer = threading.Timer(0.4, old.balance.advance, (0,))
    timer.start()
    new.balance.advance(0)
    timer.join()
    assert boxes[1].waited > 0.05 and boxes[0].waited == 0


def test_history_that_does_not_come_is_a_timeout(boxes):
    _, new = group(boxes, plan((60, 1), (9, 2)), step_timeout=0.1)
    with pytest.raises(LinkTimeout, match="BalanceBlock of rank 0, layer 0"):
        new.balance.advance(0)


def test_history_of_another_size_than_planned_is_refused(boxes):
    _, new = group(boxes, plan((60, 1), (9, 2)))
    message = BalanceBlock("r", 1, 1, 0, 0, 30, 1)
    boxes[0].link.send(boxes[1].link.endpoint, message, b"short", b"short")
    with pytest.raises(WireError, match="5 bytes for 30 tokens"):
        new.balance.advance(0)
