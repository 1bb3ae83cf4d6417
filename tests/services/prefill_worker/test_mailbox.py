import threading
import time

import pytest

from common.errors import Aborted, LinkTimeout
from common.links.zmq import ZmqLink
from common.messages import BalanceBlock, KvAck, RingAbort, RingBlock, RingReady
from common.pages import Owner
from services.prefill_worker import mailbox as module
from services.prefill_worker.aborts import Aborts
from services.prefill_worker.mailbox import Key, Mailbox, key_of
from tests.services.prefill_worker.plans import plan, run_chunk

CHUNKS = plan((8, 1), (8, 1), (8, 2), (8, 2))


def begin(box, chunk=2, request="r"):
    run = run_chunk(CHUNKS, chunk, 0, request=request)
    box._aborts.begin(run)
    box.begin(run)


@pytest.fixture
def box():
    box = Mailbox(ZmqLink("tcp://127.0.0.1:*"), Aborts())
    begin(box)
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
    begin(box, 3)
    assert box.dropped == 3 and box._bytes == 0


def test_readiness_may_be_early_by_whole_chunks(box):
    early = RingReady("other", 1, 0, 1, 7)
    post(box, early)
    post(box, block(), b"", b"")
    box.take(key_of(block()), 5)
    begin(box, 0, "other")
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
    begin(box, 3)
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


def test_whoever_waits_leaves_when_the_attempt_ends_here(box):
    timer = threading.Timer(0.3, box._aborts.end, (Owner("r", 1),))
    timer.start()
    started = time.perf_counter()
    with pytest.raises(Aborted, match="is over"):
        box.take(key_of(block()), 20)
    timer.join()
    assert time.perf_counter() - started < 2
    assert box.waited > 0.2 and box.dropped == 0


def test_whoever_waits_leaves_with_a_member_of_the_plan(box):
    post(box, RingAbort("r", 1, 1, 1))  # another life at that rank
    post(box, RingAbort("r", 2, 1, 2))  # another attempt
    post(box, block(), b"k", b"v")
    assert box.take(key_of(block()), 5) == [b"k", b"v"]
    post(box, RingAbort("r", 1, 1, 2))
    with pytest.raises(Aborted, match="rank 1 has left"):
        box.take(key_of(block(1)), 20)
    assert box.dropped == 0


def test_a_chunk_of_an_attempt_that_was_left_before_does_not_begin(box):
    post(box, RingAbort("other", 1, 1, 2))
    post(box, block(), b"", b"")
    box.take(key_of(block()), 5)
    with pytest.raises(Aborted):
        begin(box, 3, "other")
    begin(box, 3, "another")


def test_whoever_waits_for_room_in_a_queue_leaves_too(box):
    def fill():
        while True:
            box.send("tcp://127.0.0.1:1", block(), b"k", b"v", timeout=20)

    timer = threading.Timer(0.3, post, (box, RingAbort("r", 1, 1, 2)))
    timer.start()
    started = time.perf_counter()
    with pytest.raises(Aborted):
        fill()
    timer.join()
    assert time.perf_counter() - started < 2


def test_a_queue_that_stays_full_is_a_timeout(box):
    with pytest.raises(LinkTimeout, match=r"took nothing for 0\.05 s"):
        for _ in range(100):
            box.send("tcp://127.0.0.1:1", block(), b"k", b"v", timeout=0.05)
    box.post("tcp://127.0.0.1:1", RingAbort("r", 1, 1, 2))
    box.post("nonsense", RingAbort("r", 1, 1, 2))


def test_nothing_of_a_forgotten_attempt_stays(box):
    for early in (block(1), RingReady("r", 1, 3, 1, 7), RingReady("next", 1, 0, 1, 7)):
        post(box, early, *[b"k", b"v"][: early.num_frames])
    post(box, block(), b"", b"")
    box.take(key_of(block()), 5)
    box.forget(Owner("r", 1))
    assert [key.request for key in box._stash] == ["next"]
    assert box.dropped == 0 and box._bytes == 0
