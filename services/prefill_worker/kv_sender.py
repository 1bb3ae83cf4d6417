"""The copy thread of a prefill instance: reads finished layers and sends them to decode.

It sends what it is told to and reports what decode has acknowledged; what may go when is the
send manager's business, and so is sending again what was lost on the way. The link is made with
the object and from then on belongs to the thread that calls `run`.
"""

import queue
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import NamedTuple

from common.errors import LinkTimeout
from common.failpoints import hit
from common.links.zmq import ZmqLink
from common.messages import Endpoint, KvAck, KvCommit, KvLayer
from common.tensor.kv_cache import KvCache, pack
from services.prefill_worker.transfer import RETRY, Parcel

MAX_QUEUED = 1024
"""Parcels that wait for this thread; those beyond are dropped, and due again later."""
POLL = 0.003
"""Seconds of one wait while acknowledgements are on their way."""
IDLE = 0.1
"""Seconds of one wait while nothing is: how fast a stop is seen."""


class _Outgoing(NamedTuple):
    link: Endpoint
    message: KvLayer | KvCommit
    buffers: tuple[memoryview, ...]
    born: float


class KvSender:
    """Sends parcels over a KV link of its own.

    Args:
        cache: where layers are read from.
        bind: address of the link, on which acknowledgements come in.
    """

    def __init__(self, cache: KvCache, bind: str) -> None:
        self.dropped = 0
        """Parcels that could not be queued or were not taken by their peer in time."""
        self._cache = cache
        self._queue: queue.Queue[Parcel] = queue.Queue(MAX_QUEUED)
        self._outbox: deque[_Outgoing] = deque()
        self._num_unacked = 0
        self._active_at = 0.0
        self._link = ZmqLink(bind)
        self.endpoint: Endpoint = self._link.endpoint

    def submit(self, parcel: Parcel) -> None:
        """Queue a parcel, from any thread; never blocks."""
        try:
            self._queue.put_nowait(parcel)
        except queue.Full:
            self.dropped += 1

    def run(self, stop: threading.Event, on_ack: Callable[[KvAck], None]) -> None:
        """Send and listen until told to stop, then close the link.

        `on_ack` is called in this thread with every acknowledgement.
        """
        try:
            while not stop.is_set():
                self._fetch()
                self._post()
                self._listen(on_ack)
        finally:
            self._link.close()

    def _fetch(self) -> None:
        """Take all that is queued; wait for it only while no acknowledgement is expected."""
        is_quiet = time.monotonic() - self._active_at > RETRY
        if is_quiet:
            self._num_unacked = 0
        with suppress(queue.Empty):
            if not self._num_unacked and not self._outbox:
                self._read(self._queue.get(timeout=IDLE))
            while True:
                self._read(self._queue.get_nowait())

    def _read(self, parcel: Parcel) -> None:
        buffers: tuple[memoryview, ...] = ()
        if isinstance(parcel.message, KvLayer):
            keys, values = self._cache.read(parcel.message.layer, parcel.spans)
            buffers = (pack(keys), pack(values))
        self._outbox.append(_Outgoing(parcel.link, parcel.message, buffers, time.monotonic()))

    def _post(self) -> None:
        """Send what peers take now; the rest keeps its order, until it is overdue."""
        blocked: set[Endpoint] = set()
        waiting: deque[_Outgoing] = deque()
        for outgoing in self._outbox:
            if outgoing.link in blocked or not self._try(outgoing):
                blocked.add(outgoing.link)
                waiting.append(outgoing)
        overdue = time.monotonic() - RETRY
        self._outbox = deque(outgoing for outgoing in waiting if outgoing.born > overdue)
        self.dropped += len(waiting) - len(self._outbox)

    def _try(self, outgoing: _Outgoing) -> bool:
        hit("kv.send")
        try:
            is_sent = self._link.try_send(outgoing.link, outgoing.message, *outgoing.buffers)
        except LinkTimeout:
            return False
        if is_sent:
            self._num_unacked += 1
            self._active_at = time.monotonic()
        return is_sent

    def _listen(self, on_ack: Callable[[KvAck], None]) -> None:
        timeout = POLL if self._num_unacked or self._outbox else 0.0
        while (received := self._link.receive(timeout)) is not None:
            timeout = 0.0
            message = received[0]
            if isinstance(message, KvAck):
                self._num_unacked = max(self._num_unacked - 1, 0)
                self._active_at = time.monotonic()
                on_ack(message)
