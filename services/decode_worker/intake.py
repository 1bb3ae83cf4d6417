"""What a receiver of KV calls, perhaps in a thread of its own: the way to slots and worker."""

from collections.abc import Callable, Sequence

from common.clock import Clock
from common.errors import OutOfPages
from common.messages import KvCommit, KvLayer
from common.pages import Span
from services.decode_worker.slots import Slots
from services.decode_worker.worker import Worker


class Intake:
    """Slots where the receiver stands, all else through `post`.

    Args:
        post: has the loop call a function; a thread must not call the worker itself.
    """

    def __init__(
        self, worker: Worker, slots: Slots, clock: Clock, post: Callable[..., object]
    ) -> None:
        self._worker = worker
        self._slots = slots
        self._clock = clock
        self._post = post

    def open(self, message: KvLayer) -> Sequence[Span] | None:
        """The slots of the layer's request; None when it is over.

        Raises:
            OutOfPages: there are none yet; the worker makes room for when the layer comes again.
        """
        try:
            return self._slots.open(message, self._clock.now())
        except OutOfPages:
            self._post(self._worker.want, message)
            raise

    def commit(self, message: KvCommit) -> None:
        """Hand a transfer whose layers are in their slots to the loop."""
        self._post(self._worker.commit, message)
