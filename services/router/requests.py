"""The requests that the router holds: waiting for room, or planned; and those that are over.

Pure. A request is known by its newest attempt; what is over never starts again.
"""

from collections import deque
from dataclasses import dataclass, field

from common.messages import Accepted, Submit
from common.pages import Owner
from services.router.plan import Plan

MAX_ENDED = 16384
"""Ended attempts that are remembered."""


@dataclass(slots=True, eq=False)
class Request:
    """One attempt; `ids` are its prompt + emitted tokens as int32."""

    submit: Submit
    ids: bytes
    plan: Plan | None = None
    decode: str | None = None
    broker: str | None = None
    admitted: bool = False
    parties: frozenset[str] = field(default_factory=frozenset)
    """Names of all members that hold anything of it."""

    @property
    def owner(self) -> Owner:
        """Its key in all books."""
        return Owner(self.submit.request, self.submit.attempt)

    def accepted(self) -> Accepted:
        """The answer to every repetition of its Submit."""
        ttft = self.plan.ttft if self.plan is not None else None
        return Accepted(self.submit.request, self.submit.attempt, ttft)


class Requests:
    """All requests by id, and the queue of those without a plan."""

    def __init__(self, max_queue: int) -> None:
        self._max_queue = max_queue
        self._live: dict[str, Request] = {}
        self._waiting: deque[Request] = deque()
        self._ended: dict[Owner, None] = {}

    @property
    def num_waiting(self) -> int:
        """Requests without a plan."""
        return len(self._waiting)

    def full(self, *, retry: bool) -> bool:
        """Whether the queue takes nobody more; a new attempt of an accepted request has room."""
        return len(self._waiting) >= self._max_queue * (2 if retry else 1)

    def __len__(self) -> int:
        return len(self._live)

    @property
    def owners(self) -> set[Owner]:
        """All attempts that are not over."""
        return {request.owner for request in self._live.values()}

    def find(self, request: str) -> Request | None:
        """The living attempt of a request."""
        return self._live.get(request)

    def get(self, owner: Owner) -> Request | None:
        """Exactly this attempt, if it lives."""
        found = self._live.get(owner.request)
        return found if found is not None and found.owner == owner else None

    def is_over(self, owner: Owner) -> bool:
        """Whether the attempt has ended, or a newer one lives."""
        found = self._live.get(owner.request)
        return owner in self._ended or (found is not None and found.owner.attempt > owner.attempt)

    def add(self, request: Request) -> None:
        """Hold a new attempt: at the end of the queue, or at its head if it is a repetition."""
        self._live[request.owner.request] = request
        if request.owner.attempt > 1:
            self._waiting.appendleft(request)
        else:
            self._waiting.append(request)

    def head(self) -> Request | None:
        """The request that is planned next."""
        return self._waiting[0] if self._waiting else None

    def planned(self, request: Request) -> None:
        """The head has got its plan."""
        assert self._waiting[0] is request, "requests are planned in their order"
        self._waiting.popleft()

    def involving(self, name: str) -> list[Request]:
        """All requests of which a member holds something."""
        return [request for request in self._live.values() if name in request.parties]

    def end(self, owner: Owner) -> Request | None:
        """Forget an attempt for good; None when it was not alive."""
        self._ended[owner] = None
        if len(self._ended) > MAX_ENDED:
            del self._ended[next(iter(self._ended))]
        request = self.get(owner)
        if request is not None:
            del self._live[owner.request]
            if request.plan is None:
                self._waiting.remove(request)
        return request
