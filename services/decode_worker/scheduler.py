"""Which requests the next decode step holds: a pure object, driven by the event loop alone.

A request is admitted at a step's start once all its transfers are committed, and leaves at a
step's end. While a step is under way its members keep their slots, whatever happens: the engine
writes to them. When slots are missing, at a step's start, the youngest that has all of its KV
makes room; what still arrives never does.
"""

from collections import deque
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from common.errors import OutOfPages
from common.generation import Sampled, finish, forbidden
from common.messages import Held, KvCommit, KvLayer, Token
from common.pages import Owner, num_slots
from services.decode_worker.arrivals import Arrivals
from services.decode_worker.journal import Journal
from services.decode_worker.request import Entry, Failure, Request
from services.decode_worker.slots import MAX_HELD, Slots


class Want(NamedTuple):
    """Slots for which an attempt's first KV found no room, and since when."""

    num_tokens: int
    since: float


@dataclass(frozen=True)
class Boundary:
    """What happened at a step's start."""

    batch: list[Request]
    admitted: list[Request]
    failed: list[Failure]


@dataclass(frozen=True)
class Outcome:
    """What a step brought: requests with new tokens, those that end with their reason."""

    reported: list[Request]
    failed: list[Failure]


class Scheduler:
    """Arriving transfers, ready requests, and the batch in order of admission."""

    def __init__(
        self, slots: Slots, eos_ids: Collection[int], max_batch: int, grow_tokens: int
    ) -> None:
        self._slots = slots
        self._eos_ids = frozenset(eos_ids)
        self._max_batch = max_batch
        self._grow_tokens = grow_tokens
        self._arrivals = Arrivals(slots)
        self._wanted: dict[Owner, Want] = {}
        self._ready: deque[Request] = deque()
        self._batch: dict[Owner, Request] = {}
        self._stepping: list[Request] = []
        self._journal = Journal()
        self.steps = 0

    @property
    def num_active(self) -> int:
        """Admitted requests."""
        return len(self._batch)

    @property
    def has_work(self) -> bool:
        """Whether a step would hold anything, or somebody waits for room."""
        return bool(self._batch or self._ready or self._wanted)

    def want(self, message: KvLayer, now: float) -> None:
        """A first layer found no room: it is made at the next step's start."""
        owner = Owner(message.request, message.attempt)
        if not self._slots.ended(owner):
            wanted = max(message.reserve, message.prompt_length)
            self._wanted.setdefault(owner, Want(wanted, now))

    def commit(self, message: KvCommit, wall: float = 0.0) -> Failure | None:
        """One transfer is in its slots; with the last of them, at `wall`, the request is ready."""
        owner = Owner(message.request, message.attempt)
        if self._slots.ended(owner) or self._is_ready(owner):
            return None
        made = self._arrivals.commit(message)
        if isinstance(made, Failure):
            self.end(owner)
            return made
        if made is not None:
            made.committed = wall
            self._ready.append(made)
            self._journal.add(owner, made.job.first)
        return None

    def arrived(self) -> list[KvCommit]:
        """Transfers that are in their slots while others of their attempt are missing."""
        return self._arrivals.committed()

    def is_arriving(self, owner: Owner) -> bool:
        """Whether transfers of this attempt are still missing."""
        return not (self._slots.ended(owner) or self._is_ready(owner))

    def tokens(self, owner: Owner, index: int) -> list[Token] | None:
        """Tokens of an attempt from `index` on, none as long as its KV arrives; None: unknown."""
        tokens = self._journal.since(owner, index)
        return [] if tokens is None and owner in self.waiting() else tokens

    def end(self, owner: Owner) -> bool:
        """Let go of an attempt; whether it was in the batch. A step under way keeps its slots."""
        self._arrivals.end(owner)
        self._wanted.pop(owner, None)
        self._ready = deque(request for request in self._ready if request.owner != owner)
        request = self._batch.pop(owner, None)
        self._slots.end(owner)
        self._journal.end(owner)
        return request is not None

    def fence(self) -> None:
        """Let go of everything, and of what it was."""
        for owner in [*self._batch, *self.waiting()]:
            self.end(owner)
        self._journal.clear()

    def waiting(self) -> set[Owner]:
        """Attempts that are here, not over, and not admitted."""
        opened = {owner for owner in self._slots.owners() if not self._slots.ended(owner)}
        return (opened | set(self._arrivals) | set(self._wanted)) - set(self._batch)

    def held(self, now: float) -> tuple[Held, ...]:
        """What every attempt holds, also those that are known and have no slots yet."""
        held = self._slots.held(now, self._batch)
        known = {(one.request, one.attempt) for one in held}
        bare = [Held(*owner, slots=0) for owner in self.waiting() if owner not in known]
        return (*held, *bare)[:MAX_HELD]

    def start(self) -> Boundary:
        """Admit what is ready, make room for one more token each, and form the batch."""
        admitted, failed = [], []
        while self._ready and len(self._batch) < self._max_batch:
            request = self._ready.popleft()
            self._batch[request.owner] = request
            admitted.append(request)
        for request in list(self._batch.values()):
            failed += self._grow(request)
        while self._wanted:
            failed += self._house(*next(iter(self._wanted.items())))
        self._stepping = list(self._batch.values())
        self._slots.pin(self._batch)
        admitted = [request for request in admitted if request.owner in self._batch]
        return Boundary(self._stepping, admitted, failed)

    def entries(self) -> list[Entry]:
        """The batch as the engine takes it."""
        return [
            Entry(
                last=request.last,
                position=request.position,
                spans=request.spans,
                sampling=request.job.sampling,
                forbidden=forbidden(request.job.ending, self._eos_ids, request.num_emitted),
                past=request.past,
            )
            for request in self._stepping
        ]

    def finish(self, drawn: Sequence[Sampled | None]) -> Outcome:
        """Book one step's tokens; None where the model gave no finite logits."""
        self.steps += 1
        self._slots.unpin()
        stepped, self._stepping = self._stepping, []
        outcome = Outcome([], [])
        for request, sampled in zip(stepped, drawn, strict=True):
            if self._batch.get(request.owner) is not request:
                continue
            if sampled is None:
                why = f"no finite logits at position {request.position + 1}"
                outcome.failed.append(Failure(request.owner, why, retryable=False))
            else:
                request.num_shared += len(stepped) > 1
                self._emit(request, sampled)
                outcome.reported.append(request)
            if sampled is None or request.reason is not None:
                self.end(request.owner)
        return outcome

    def _is_ready(self, owner: Owner) -> bool:
        return owner in self._batch or any(request.owner == owner for request in self._ready)

    def _grow(self, request: Request) -> list[Failure]:
        """Room for the request's last token, if need be at the expense of the youngest."""
        failed: list[Failure] = []
        wanted = min(self._grow_tokens, request.num_left)
        while request.owner in self._batch and request.needs_room:
            try:
                request.spans = self._slots.grow(request.owner, wanted)
            except OutOfPages as error:
                if self._slots.owners() == [request.owner]:
                    self.end(request.owner)
                    why = f"{error}, and nobody else holds any: raise decode.kv_tokens"
                    failed.append(Failure(request.owner, why, retryable=False))
                else:
                    failed.append(self._evict(error))
        return failed

    def _house(self, owner: Owner, want: Want) -> list[Failure]:
        """Slots for an attempt whose KV arrives, as long as others can make room."""
        failed: list[Failure] = []
        while owner in self._wanted:
            try:
                self._slots.reserve(owner, want.num_tokens, want.since)
                del self._wanted[owner]
            except OutOfPages as error:
                if want.num_tokens > self._within_reach():
                    self.end(owner)
                    failed.append(Failure(owner, str(error), evicted=True))
                elif self._batch or self._ready:
                    failed.append(self._evict(error))
        return failed

    def _within_reach(self) -> int:
        """Slots that would be free without all those that have their KV."""
        evictable = (*self._batch.values(), *self._ready)
        return self._slots.totals()[1] + sum(num_slots(request.spans) for request in evictable)

    def _evict(self, error: OutOfPages) -> Failure:
        youngest = self._ready[-1].owner if self._ready else next(reversed(self._batch))
        self.end(youngest)
        return Failure(youngest, f"had to make room: {error}", evicted=True)

    def _emit(self, request: Request, sampled: Sampled) -> None:
        num_emitted = request.num_emitted + 1
        reason = finish(request.job.ending, self._eos_ids, sampled.id, num_emitted)
        self._journal.add(request.owner, request.emit(sampled, reason))
