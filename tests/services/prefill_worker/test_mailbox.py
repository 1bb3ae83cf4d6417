import pytest

from common.errors import LinkTimeout
from common.links.zmq import ZmqLink
from common.messages import BalanceBlock, KvAck, RingBlock, RingReady
from services.prefill_worker import mailbox as module
from services.prefill_worker.mailbox import Key, Mailbox, key_of


@pytest.fixture
def box():
    box = Mailbox(ZmqLink("tcp://127.0.0.1:*"))
    box.begin("r", 1, 2)
    yield box
    box.link.close()


def block(layer=0, step=0, chunk=2, attempt=1, incarnation=7) -> RingBlock:
    return RingBlock("r", attempt, chunk, layer, step, 1, 0, incarnation)


def post(box, message, *frames):
    box.link.send(box.link.endpoint, message, *frames)


def test_messages_are_taken_in_the_order_in_which_they_are_asked_for(box):
    for layer in (2, 1, 0):
        post(box, block(layer), b"k%d" % layer, b"v")
    for layer in range(3):
        assert box.take(key_of(block(layer)), 5) == [b"k%d" % layer, b"v"]
    assert box.dropped == 0 and box._bytes == 0


def test_blocks_of_other_chunks_attempts_and_lives_are_not_taken(box):
    for stale in (block(chunk=1), block(attempt=2)):
        post(box, stale, b"stale", b"")
    post(box, block(incarnation=6), b"another life", b"")
    post(box, block(), b"fresh", b"")
    assert box.take(key_of(block()), 5) == [b"fresh", b""]
    assert box.dropped == 2
    box.begin("r", 1, 3)
    assert box.dropped == 3 and box._bytes == 0


def test_readiness_may_be_early_by_whole_chunks(box):
    early = RingReady("other", 1, 0, 1, 7)
    post(box, early)
    post(box, block(), b"", b"")
    box.take(key_of(block()), 5)
    box.begin("other", 1, 0)
    assert box.take(key_of(early), 0) == []


def test_messages_that_are_no_business_of_the_ring_are_dropped(box):
    post(box, KvAck("r", 1, 2, 0, 0, 1))
    post(box, block(), b"", b"")
    box.take(key_of(block()), 5)
    assert box.dropped == 1


def test_a_repeated_message_is_dropped(box):
    for _ in range(2):
        post(box, block(1), b"k", b"v")
    post(box, block(0), b"", b"")
    box.take(key_of(block(0)), 5)
    assert box.dropped == 1
    assert box.take(key_of(block(1)), 0) == [b"k", b"v"]


def test_what_does_not_come_is_a_timeout_that_names_it_and_counts_as_waiting(box):
    with pytest.raises(LinkTimeout, match="RingBlock of rank 1, layer 4, step 2 of r chunk 2"):
        box.take(key_of(block(4, 2)), 0.05)
    assert 0.05 <= box.waited < 5
    box.begin("r", 1, 3)
    assert box.waited == 0


def test_the_stash_is_bounded_and_gives_up_the_oldest(box, monkeypatch):
    monkeypatch.setattr(module, "MAX_MESSAGES", 3)
    monkeypatch.setattr(module, "MAX_BYTES", 25)
    for layer in range(1, 6):
        post(box, block(layer), b"x" * 10, b"")
    post(box, block(0), b"", b"")
    box.take(key_of(block(0)), 5)
    assert [key.layer for key in box._stash] == [4, 5]
    assert box.dropped == 3 and box._bytes == 20


def test_every_message_between_members_has_a_key_of_its_own():
    ready = RingReady("r", 1, 0, 3, 7)
    assert key_of(ready) == Key(RingReady, "r", 1, 0, 3, 7)
    assert key_of(block(5, 6)) == Key(RingBlock, "r", 1, 2, 1, 7, 5, 6)
    assert key_of(BalanceBlock("r", 1, 2, 4, 0, 9, 7)) == Key(BalanceBlock, "r", 1, 2, 0, 7, 4)
