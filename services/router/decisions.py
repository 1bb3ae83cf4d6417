"""The last plans with what they were chosen from, for whoever asks why. Pure and bounded."""

from dataclasses import dataclass, field

from common.latency import LatencyModel
from common.messages import ChunkDone
from common.pages import Owner
from services.router.plan import Plan
from services.router.requests import Request

MAX_REMEMBERED = 1024
"""Requests whose newest plan is kept, also when they are over."""


@dataclass(slots=True)
class Measured:
    """One chunk as far as its members have told; seconds of the slowest in each phase.

    Args:
        num_members: who have told.
        seconds: from the moment when all had come.
        ended: when the last of them was heard, monotonic.
    """

    num_members: int = 0
    seconds: float = 0.0
    gather: float = 0.0
    balance: float = 0.0
    compute: float = 0.0
    wait: float = 0.0
    ended: float = 0.0

    def take(self, done: ChunkDone, now: float) -> None:
        """One more member has told."""
        wait = max(0.0, done.wait - done.gather)
        self.num_members += 1
        self.seconds = max(self.seconds, done.compute + wait + done.balance)
        self.gather = max(self.gather, done.gather)
        self.balance = max(self.balance, done.balance)
        self.compute = max(self.compute, done.compute)
        self.wait = max(self.wait, wait)
        self.ended = now


@dataclass(slots=True)
class Decision:
    """One plan; times in monotonic seconds.

    Args:
        model: what chunks were predicted with.
        shadow: TTFT that the shadow policy predicts, if there is one.
    """

    owner: Owner
    plan: Plan
    model: LatencyModel
    decode: str
    arrived: float
    planned: float
    shadow: float | None = None
    measured: dict[int, Measured] = field(default_factory=dict)


class Decisions:
    """The newest plan of each of the last requests that got one."""

    def __init__(self) -> None:
        self._decisions: dict[str, Decision] = {}

    def add(self, request: Request, model: LatencyModel, shadow: float | None, now: float) -> None:
        """A request has got its plan."""
        assert request.plan is not None and request.decode is not None, "kept when it is booked"
        owner, plan, decode = request.owner, request.plan, request.decode
        # One planned again is among the last ones.
        self._decisions.pop(owner.request, None)
        self._decisions[owner.request] = Decision(
            owner, plan, model, decode, request.arrived, now, shadow
        )
        if len(self._decisions) > MAX_REMEMBERED:
            del self._decisions[next(iter(self._decisions))]

    def computed(self, done: ChunkDone, now: float) -> None:
        """A member has computed its part of a chunk, heard for the first time."""
        decision = self._decisions.get(done.request)
        if decision is not None and decision.owner.attempt == done.attempt:
            decision.measured.setdefault(done.index, Measured()).take(done, now)

    def find(self, request: str) -> Decision | None:
        """The newest plan of a request; None when it has none, or it is too long ago."""
        return self._decisions.get(request)
