"""Prompts of the router's own: ordinary requests whose gateway is the router, one at a time.

They end with their first token, which nobody reads, so that nothing of them is decoded. They keep
no books of their own: whatever happens to an attempt happens to them.
"""

import random
from array import array

from common.messages import Cancel, Ending, Peer, Sampling, Submit
from common.pages import Owner
from services.router.attempts import Attempts
from services.router.books import Books
from services.router.calibration import Order
from services.router.planning import Planning
from services.router.requests import Request

VOCABULARY = 64
"""Token ids that every model knows."""
ENDING = Ending(max_tokens=1, ignore_eos=True)


class Orders:
    """The prompt that runs now; `peer` is the router, whose epoch makes names unique."""

    def __init__(self, peer: Peer, books: Books, planning: Planning, attempts: Attempts) -> None:
        self._peer = peer
        self._books = books
        self._planning = planning
        self._attempts = attempts
        self._rng = random.Random(0)
        self._started = 0.0
        self._count = 0
        self.running: Owner | None = None

    def is_own(self, request: str) -> bool:
        """Whether a request is one of these."""
        return request.startswith(self._prefix)

    def start(self, order: Order, names: frozenset[str], now: float) -> bool:
        """Run a prompt on some of these instances; False when there is no room for it."""
        assert self.running is None, "one at a time"
        self._count += 1
        submit = Submit(
            request=f"{self._prefix}{self._count}",
            attempt=1,
            reply=self._peer,
            num_tokens=order.length,
            num_emitted=0,
            sampling=Sampling(temperature=0.0),
            ending=ENDING,
            forced_plan=order.plan,
        )
        ids = array("i", self._rng.choices(range(VOCABULARY), k=order.length))
        request = Request.of(submit, ids.tobytes(), now)
        if not self._planning.order(request, names, now):
            return False
        self.running, self._started = request.owner, now
        return True

    def elapsed(self, now: float) -> float:
        """Seconds since the prompt was started."""
        return now - self._started

    def is_over(self) -> bool:
        """Whether all members have computed the prompt, or given it up, and let go of it."""
        books, owner = self._books, self.running
        return owner is None or (
            books.requests.get(owner) is None and owner not in books.memory.owners
        )

    def settle(self) -> None:
        """Make room for the next prompt."""
        self.running = None

    def stop(self, now: float) -> None:
        """Have everybody leave the prompt at once."""
        if self.running is not None:
            self._attempts.end(self.running, Cancel(*self.running), now)
            self.running = None

    @property
    def _prefix(self) -> str:
        return f"tetris-measures-{self._peer.incarnation}-"
