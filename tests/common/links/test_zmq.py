import gc
import threading
import time

import numpy as np
import pytest
import zmq

from common.errors import LinkTimeout, WireError
from common.links import zmq as zmq_module
from common.links.zmq import HIGH_WATER, MAX_PEERS, ZmqLink
from common.messages import RingBlock, RingReady
from common.wire import LINK

READY = RingReady("r", 1, 0, 1, 7)


def block(step: int = 0) -> RingBlock:
    return RingBlock("r", 1, 0, 2, step, 1, 3, 7)


@pytest.fixture(params=["ipc", "tcp"])
def bind(request, tmp_path):
    return f"ipc://{tmp_path}/link" if request.param == "ipc" else "tcp://127.0.0.1:*"


@pytest.fixture
def link(bind):
    link = ZmqLink(bind, send_timeout=0.2)
    yield link
    link.close()


@pytest.fixture
def raw(link):
    """A socket that may push anything to the link."""
    socket = zmq.Context.instance().socket(zmq.PUSH)
    socket.setsockopt(zmq.LINGER, 0)
    socket.connect(link.endpoint)
    yield socket
    socket.close()


def test_messages_arrive_in_order_with_their_buffers(link):
    sender = ZmqLink("tcp://127.0.0.1:*")
    sender.send(link.endpoint, READY)
    for step, size in enumerate((0, 1, 100_000)):
        payload = np.full(size, step, dtype=np.uint8)
        sender.send(link.endpoint, block(step), payload.data, b"values")
    assert link.receive(5) == (READY, [])
    for step, size in enumerate((0, 1, 100_000)):
        message, (keys, values) = link.receive(5)
        assert message == block(step)
        assert keys == bytes([step]) * size and values == b"values"
    sender.close()


def test_a_received_view_outlives_its_message(link):
    sender = ZmqLink("tcp://127.0.0.1:*")
    sender.send(link.endpoint, block(), b"k" * 1000, b"v")
    keys = link.receive(5)[1][0]
    gc.collect()
    sender.close()
    assert keys == b"k" * 1000


def test_nothing_to_receive_is_none_after_the_timeout(link):
    started = time.monotonic()
    assert link.receive(0.15) is None
    assert 0.14 < time.monotonic() - started < 5
    assert link.receive(0) is None


@pytest.mark.parametrize(
    "frames",
    [
        [b""],
        [b"\xc1"],
        [b"x" * 2_000_000],
        [b"\x81\xa4type\xa7Unknown"],
        [b"\x80", b"frame"],
        [b"\x81\xa4type\xa9RingReady"],
    ],
)
def test_malformed_messages_are_dropped_and_counted(link, raw, frames):
    raw.send_multipart(frames)
    raw.send_multipart(LINK.encode(READY))
    assert link.receive(5) == (READY, [])
    assert link.malformed == 1


def test_a_message_with_too_many_frames_is_malformed(link, raw):
    with pytest.raises(WireError):
        link.send(link.endpoint, READY, b"too many")
    raw.send_multipart([*LINK.encode(READY), b"too many"])
    assert link.receive(0.3) is None
    assert link.malformed == 1


def test_whoever_waits_for_room_may_be_called_away(link):
    sender = ZmqLink("tcp://127.0.0.1:*", send_timeout=20)
    calls = []

    def leave():
        calls.append(len(calls))
        if len(calls) == 2:
            raise InterruptedError

    while sender.try_send("tcp://127.0.0.1:1", READY):
        pass
    with pytest.raises(InterruptedError):
        sender.send("tcp://127.0.0.1:1", READY, meanwhile=leave)
    with pytest.raises(LinkTimeout, match=r"took nothing for 0\.05 s"):
        sender.send("tcp://127.0.0.1:1", READY, timeout=0.05)
    sender.close()


def test_a_peer_that_takes_nothing_is_a_timeout_and_memory_stays_bounded(link):
    sender = ZmqLink("tcp://127.0.0.1:*", send_timeout=0.2)
    payload = np.zeros(4_000_000, dtype=np.uint8)
    sent = 0
    while sender.try_send(link.endpoint, block(sent), payload.data, b""):
        sent += 1
        assert sent < 100
    with pytest.raises(LinkTimeout, match=r"took nothing for 0\.2 s"):
        for _ in range(2 * HIGH_WATER + 10):
            sender.send(link.endpoint, block(), payload.data, b"")
    assert link.receive(5)[0] == block(0)
    sender.close()


def test_send_waits_for_room(link):
    sender = ZmqLink("tcp://127.0.0.1:*", send_timeout=10)
    payload = np.zeros(1_000_000, dtype=np.uint8)
    total = 5 * HIGH_WATER
    thread = threading.Thread(
        target=lambda: [
            sender.send(link.endpoint, block(step), payload.data, b"") for step in range(total)
        ]
    )
    thread.start()
    assert [link.receive(10)[0].step for _ in range(total)] == list(range(total))
    thread.join()
    sender.close()


@pytest.mark.parametrize("endpoint", ["nonsense", "tcp://", "ipc://" + "x" * 300])
def test_an_endpoint_that_cannot_be_connected_is_a_timeout(link, endpoint):
    with pytest.raises(LinkTimeout, match="cannot be reached"):
        link.send(endpoint, READY)


def test_peers_that_were_not_used_for_longest_are_closed(link, tmp_path):
    for index in range(MAX_PEERS + 5):
        link.try_send(f"ipc://{tmp_path}/peer{index}", READY)
    assert len(link._pushes) == MAX_PEERS
    assert f"ipc://{tmp_path}/peer0" not in link._pushes
    for socket in link._pushes.values():
        socket.setsockopt(zmq.LINGER, 0)


def test_a_peer_that_was_not_used_for_long_is_closed_when_another_opens(
    link, tmp_path, monkeypatch
):
    first, second, third = (f"ipc://{tmp_path}/peer{index}" for index in range(3))
    for endpoint in (first, second, first):
        link._push(endpoint)
    assert list(link._pushes) == [second, first]
    monkeypatch.setattr(zmq_module, "IDLE", -1.0)
    link._push(first)
    assert list(link._pushes) == [second, first]
    link._push(third)
    assert list(link._pushes) == list(link._used) == [third]


def test_close_leaves_no_socket_file(tmp_path):
    link = ZmqLink(f"ipc://{tmp_path}/link")
    assert (tmp_path / "link").exists()
    link.close()
    assert list(tmp_path.iterdir()) == []
