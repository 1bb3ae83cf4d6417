"""Which attempts are over, for whoever computes one: ended by the loop, or left by a member.

`end` and `stop` are the event loop's, all else belongs to whoever computes; nothing here waits.
"""

from common.errors import Aborted
from common.messages import RingAbort, RunChunk
from common.pages import Owner
from common.recent import Recent
from services.prefill_worker.plan import owner_of

MAX_OVER = 4096
"""Ends, and departures of other members, that are remembered."""


class Aborts:
    """What ends the computation of the current attempt."""

    def __init__(self) -> None:
        self._ended: Recent[Owner] = Recent(MAX_OVER)
        self._left: Recent[RingAbort] = Recent(MAX_OVER)
        self._owner = Owner("", 0)
        self._decisive: tuple[RingAbort, ...] = ()
        self._is_stopped = False

    def end(self, owner: Owner) -> None:
        """This member's part in an attempt is over."""
        self._ended.add(owner)

    def stop(self) -> None:
        """This member ends: whatever is computed from now on is over."""
        self._is_stopped = True

    def note(self, message: RingAbort) -> None:
        """A member has left; it counts if a plan has that life of it at that rank."""
        self._left.add(message)

    def begin(self, run: RunChunk) -> None:
        """From now on this chunk is computed."""
        self._owner = owner_of(run)
        self._decisive = tuple(
            RingAbort(run.request, run.attempt, rank, member.incarnation)
            for rank, member in enumerate(run.members)
            if rank != run.rank
        )

    def check(self) -> None:
        """Go on, unless the current attempt is over.

        Raises:
            Aborted: it has ended here, or a member of its plan has left.
        """
        if self._is_stopped:
            raise Aborted("this member ends")
        if self._owner in self._ended:
            raise Aborted("the attempt is over")
        for message in self._decisive:
            if message in self._left:
                raise Aborted(f"rank {message.rank} has left the group")
