"""The requests that the router holds: waiting for room, or planned, or adopted.

Pure. A request is known by its newest attempt; what is over never starts again.
"""

from bisect import insort
from dataclasses import dataclass

from common.messages import Accepted, Cancel, Peer, Submit
from common.pages import Owner
from services.router.endings import Endings, How
from services.router.plan import Plan


@dataclass(slots=True, eq=False)
class Request:
    """One attempt.

    Args:
        submitted: None when this router has found the attempt running, and adopted it.
        ids: prompt + emitted tokens as int32.
        touched: names of all members that may hold something of it.
        verdict: a version of the mesh, and why it could never run there, if so.
        demand: instances of a version of the mesh, and whether it could never run on them alone.
        place: in the line of all requests, the same for every attempt.
        arrived: monotonic seconds.
        size: see `scheduler.Job`.
        expected: when its first token is predicted to come; None where that cannot be known.
    """

    owner: Owner
    gateway: Peer
    submitted: Submit | None = None
    ids: bytes = b""
    plan: Plan | None = None
    decode: str | None = None
    broker: str | None = None
    admitted: bool = False
    touched: tuple[str, ...] = ()
    verdict: tuple[int, str | None] | None = None
    demand: tuple[int, frozenset[str], bool] | None = None
    place: int = 0
    arrived: float = 0.0
    size: int | None = None
    expected: float | None = None

    @classmethod
    def of(cls, submit: Submit, ids: bytes, now: float = 0.0) -> "Request":
        """The attempt that a gateway hands in."""
        owner = Owner(submit.request, submit.attempt)
        return cls(owner, submit.reply, submit, ids, arrived=now)

    @property
    def length(self) -> int:
        """Tokens to prefill."""
        return self.submit.num_tokens

    @property
    def is_retry(self) -> bool:
        """Whether the request has been accepted before."""
        return self.owner.attempt > 1

    @property
    def forced(self) -> str | None:
        """The plan that the client demands."""
        return self.submit.forced_plan

    @property
    def submit(self) -> Submit:
        """What the gateway wants."""
        assert self.submitted is not None, "an adopted attempt is never planned"
        return self.submitted

    def touch(self, *names: str) -> None:
        """Note who may hold something of it from now on."""
        self.touched += tuple(name for name in names if name not in self.touched)

    def needs(self, peer: Peer) -> bool:
        """Whether it cannot go on without this life of a member.

        A broker can be replaced at any time. Once admitted, prefill has done its part.
        """
        if peer.name == self.gateway.name:
            return peer.incarnation == self.gateway.incarnation
        if peer.name == self.decode:
            return True
        return self.plan is not None and not self.admitted and peer.name in self.plan.members

    def accepted(self, now: float) -> Accepted:
        """The answer to its Submit, and to every repetition of it."""
        ttft = max(0.0, self.expected - now) if self.expected is not None else None
        return Accepted(self.owner.request, self.owner.attempt, ttft)


class Requests:
    """All requests by id, the queue of those without a plan, and how others have ended."""

    def __init__(self, max_queue: int) -> None:
        self._max_queue = max_queue
        self._live: dict[str, Request] = {}
        self._waiting: list[Request] = []
        self._endings = Endings()
        self._places = 0

    @property
    def num_waiting(self) -> int:
        """Requests without a plan."""
        return len(self._waiting)

    @property
    def waiting(self) -> tuple[Request, ...]:
        """Requests without a plan, in the order in which they start."""
        return tuple(self._waiting)

    @property
    def live(self) -> tuple[Request, ...]:
        """All requests."""
        return tuple(self._live.values())

    @property
    def owners(self) -> set[Owner]:
        """All attempts that are not over."""
        return {request.owner for request in self._live.values()}

    def __len__(self) -> int:
        return len(self._live)

    def full(self, share: float) -> bool:
        """Whether the queue takes nobody more who may use that share of it."""
        return len(self._waiting) >= self._max_queue * share

    def find(self, request: str) -> Request | None:
        """The living attempt of a request."""
        return self._live.get(request)

    def get(self, owner: Owner) -> Request | None:
        """Exactly this attempt, if it lives."""
        found = self._live.get(owner.request)
        return found if found is not None and found.owner == owner else None

    def over(self, owner: Owner) -> How | None:
        """How the attempt has ended, also where a newer one lives; None when it has not."""
        how = self._endings.how(owner)
        found = self._live.get(owner.request)
        if how is None and found is not None and found.owner.attempt > owner.attempt:
            return Cancel(owner.request, owner.attempt)
        return how

    def add(self, request: Request) -> None:
        """Hold a new attempt: in the queue, repetitions first and old requests before young."""
        self._hold(request)
        insort(self._waiting, request, key=lambda one: (one.owner.attempt == 1, one.place))

    def adopt(self, request: Request) -> None:
        """Hold an attempt that runs already."""
        self._hold(request)

    def planned(self, request: Request) -> None:
        """A request has got its plan."""
        self._waiting.remove(request)

    def needing(self, peer: Peer) -> list[Request]:
        """All requests that cannot go on without this life of a member."""
        return [request for request in self._live.values() if request.needs(peer)]

    def follow(self, decode: str, broker: str | None) -> None:
        """A decode instance has got another broker."""
        for request in self._live.values():
            if request.decode == decode:
                request.broker = broker
                request.touch(*([broker] if broker is not None else []))

    def end(self, owner: Owner, how: How) -> Request | None:
        """Forget an attempt for good but for how it ended; None when it was not alive."""
        request = self.get(owner)
        self._endings.add(owner, how, request.place if request is not None else None)
        if request is not None:
            del self._live[owner.request]
            if request in self._waiting:
                self._waiting.remove(request)
        return request

    def _hold(self, request: Request) -> None:
        owner = request.owner
        assert owner.request not in self._live, "the attempt before has been ended"
        place = self._endings.place(Owner(owner.request, owner.attempt - 1))
        if place is None:
            self._places += 1
            place = self._places
        request.place = place
        self._live[owner.request] = request
