"""The copy thread of a decode instance: takes KV off the link and copies it into pages.

Every frame may come twice, late or broken: copying is idempotent and so is a commit, frames of an
older loan of a backend are dropped, and so is whatever does not fit its own header.
The link is made with the object and from then on belongs to the thread that calls `run`.
"""

import threading
from collections import Counter
from collections.abc import Callable, Sequence

from common import failpoints
from common.errors import LinkTimeout, OutOfPages, WireError
from common.links.zmq import ZmqLink
from common.messages import Endpoint, KvCommit, KvLayer
from common.pages import Span, num_slots, take
from common.sharding import num_tokens
from common.tensor.kv_cache import KvCache, unpack
from services.decode_worker.fence import Fence, ack

IDLE = 0.1
"""Seconds of one wait: how fast a stop is seen."""


class KvReceiver:
    """Receives all KV of one decode instance.

    Args:
        cache: where layers are written to.
        bind: address of the link.
        open: the slots of the request that a layer belongs to, in the order of its prompt,
            reserved with its first KV; None when the request is over. Called in the copy thread;
            where it raises `OutOfPages` the layer is dropped, to come again.
        copied: called there as soon as nothing more is written to the slots that `open` gave.
        commit: called in the copy thread for every transfer whose layers have all come, and
            again for a repeated commit.
    """

    def __init__(
        self,
        cache: KvCache,
        bind: str,
        open: Callable[[KvLayer], Sequence[Span] | None],
        copied: Callable[[], None],
        commit: Callable[[KvCommit], None],
    ) -> None:
        self.dropped: Counter[str] = Counter()
        """Messages that were not acknowledged, by reason."""
        self._cache = cache
        self._open = open
        self._copied = copied
        self._commit = commit
        self._fence = Fence()
        self._link = ZmqLink(bind)
        self.endpoint: Endpoint = self._link.endpoint

    def run(self, stop: threading.Event) -> None:
        """Receive until told to stop, then close the link."""
        try:
            while not stop.is_set():
                received = self._link.receive(IDLE)
                if received is not None:
                    self._receive(*received)
        finally:
            self._link.close()

    def _receive(self, message: object, frames: Sequence[memoryview]) -> None:
        try:
            match message:
                case KvLayer():
                    self._check_layer(message)
                    self._take_layer(message, frames)
                    self._acknowledge(message, message.layer)
                case KvCommit():
                    self._fence.check_commit(message)
                    failpoints.hit("kv.commit")
                    self._commit(message)
                    self._acknowledge(message, message.num_layers)
                case _:
                    self.dropped["type"] += 1
        except WireError as error:
            self.dropped[error.reason] += 1
        except OutOfPages:
            self.dropped["room"] += 1

    def _check_layer(self, message: KvLayer) -> None:
        """Raise `WireError` unless header and cache fit together."""
        inside = all(start <= stop <= message.prompt_length for start, stop in message.intervals)
        if not inside or message.layer >= self._cache.layout.num_layers:
            raise WireError("field", "layer or intervals out of bounds")

    def _take_layer(self, message: KvLayer, frames: Sequence[memoryview]) -> None:
        count = num_tokens(message.intervals)
        keys, values = (unpack(frame, self._cache.layout, count) for frame in frames)
        self._fence.check(message)
        spans = self._open(message)
        if spans is None:
            return
        try:
            if num_slots(spans) < message.prompt_length:
                raise WireError("size", "the prompt is longer than its slots")
            slots = [span for interval in message.intervals for span in take(spans, *interval)]
            failpoints.hit("kv.receive")
            self._cache.write(message.layer, slots, keys, values)
        finally:
            self._copied()

    def _acknowledge(self, message: KvLayer | KvCommit, layer: int) -> None:
        try:
            is_sent = self._link.try_send(message.reply, ack(message, layer))
        except LinkTimeout:
            is_sent = False
        if not is_sent:  # the sender repeats itself, and is then answered
            self.dropped["ack"] += 1
