import queue
import threading
from collections.abc import Iterator

import pytest
import torch

from common import failpoints
from common.links.zmq import HIGH_WATER, ZmqLink
from common.messages import KvAck, KvCommit, KvLayer, KvLayout
from common.pages import Span
from common.tensor.kv_cache import KvCache, unpack
from services.prefill_worker.kv_sender import MAX_QUEUED, KvSender
from services.prefill_worker.transfer import Parcel

LAYOUT = KvLayout(num_layers=2, num_kv_heads=2, head_dim=4, dtype="bfloat16")
BIND = "tcp://127.0.0.1:*"
SPANS = (Span(20, 23), Span(2, 4))
SECONDS = 20.0


class Rig:
    """A sender in its thread, and the link of the decode instance that it sends to."""

    def __init__(self) -> None:
        self.cache = KvCache(LAYOUT, 2)
        self.cache.keys.normal_()
        self.cache.values.normal_()
        self.link = ZmqLink(BIND)
        self.sender = KvSender(self.cache, BIND)
        self.acks: queue.Queue[KvAck] = queue.Queue()
        self.stop = threading.Event()
        self.thread = threading.Thread(
            target=self.sender.run, args=(self.stop, self.acks.put), daemon=True
        )

    def layer(self, layer: int, link: str | None = None) -> Parcel:
        message = KvLayer(
            request="a",
            attempt=1,
            chunk=0,
            rank=0,
            layer=layer,
            backend=0,
            generation=1,
            intervals=((0, 5),),
            prompt_length=5,
            reserve=9,
            reply=self.sender.endpoint,
            incarnation=1,
        )
        return Parcel(link or self.link.endpoint, message, SPANS)

    def commit(self) -> Parcel:
        message = KvCommit(
            request="a",
            attempt=1,
            chunk=0,
            rank=0,
            backend=0,
            generation=1,
            num_transfers=1,
            num_layers=2,
            num_tokens=5,
            prompt_length=5,
            reserve=9,
            broker="tcp://127.0.0.1:1",
            reply=self.sender.endpoint,
            incarnation=1,
        )
        return Parcel(self.link.endpoint, message)


@pytest.fixture
def rig() -> Iterator[Rig]:
    rig = Rig()
    rig.thread.start()
    yield rig
    rig.stop.set()
    rig.thread.join()
    rig.link.close()


def test_layers_arrive_in_order_with_the_bytes_of_their_slots(rig: Rig) -> None:
    for parcel in (rig.layer(0), rig.layer(1), rig.commit()):
        rig.sender.submit(parcel)
    for layer in range(2):
        received = rig.link.receive(SECONDS)
        assert received is not None
        message, frames = received
        assert message == rig.layer(layer).message
        for frame, stored in zip(frames, rig.cache.read(layer, SPANS), strict=True):
            assert torch.equal(unpack(frame, LAYOUT, 5), stored)
    received = rig.link.receive(SECONDS)
    assert received is not None
    assert received == (rig.commit().message, [])


def test_acknowledgements_are_reported(rig: Rig) -> None:
    rig.sender.submit(rig.layer(0))
    assert rig.link.receive(SECONDS) is not None
    ack = KvAck("a", 1, 0, 0, 0, 1)
    rig.link.send(rig.sender.endpoint, rig.commit().message)  # not meant for a sender
    rig.link.send(rig.sender.endpoint, ack)
    assert rig.acks.get(timeout=SECONDS) == ack
    assert rig.acks.empty()


def test_a_peer_that_takes_nothing_does_not_hold_up_the_others(rig: Rig) -> None:
    for _ in range(2 * HIGH_WATER):
        rig.sender.submit(rig.layer(0, link="tcp://127.0.0.1:1"))
    rig.sender.submit(rig.layer(0, link="nonsense"))
    rig.sender.submit(rig.layer(1))
    received = rig.link.receive(SECONDS)
    assert received is not None
    assert received[0] == rig.layer(1).message


def test_parcels_beyond_the_queue_are_dropped_and_counted() -> None:
    rig = Rig()
    for _ in range(MAX_QUEUED + 2):
        rig.sender.submit(rig.commit())
    assert rig.sender.dropped == 2
    rig.stop.set()
    rig.sender.run(rig.stop, rig.acks.put)
    rig.link.close()


def test_a_failpoint_is_hit_with_every_frame(rig: Rig) -> None:
    hits: list[str] = []
    with failpoints.hooked("kv.send", lambda: hits.append("kv.send")):
        for parcel in (rig.layer(0), rig.commit()):
            rig.sender.submit(parcel)
            assert rig.link.receive(SECONDS) is not None
    assert hits == 2 * ["kv.send"]
