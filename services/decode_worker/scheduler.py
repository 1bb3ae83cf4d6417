"""Which requests the next decode step holds: a pure object, driven by the event loop alone.

A request is admitted at a step's start once all its transfers are committed, and leaves at a
step's end. While a step is under way its members keep their slots, whatever happens: the engine
writes to them. With n tokens emitted, the next step writes the KV of token n - 1 at position
`prompt_length + n - 1` and draws the token of position `prompt_length + n`.
"""

from collections import deque
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from common.errors import OutOfPages
from common.generation import Sampled, finish, forbidden
from common.messages import DecodeJob, Finish, KvCommit, Sampling, Token
from common.pages import Owner, Span, num_slots
from services.decode_worker.slots import Slots


@dataclass(frozen=True)
class Entry:
    """What the engine needs to draw one request's next token."""

    last: int
    position: int
    """Of `last`, whose KV this step writes; the drawn token stands one further."""
    spans: Sequence[Span]
    """Slots of the tokens up to and including `position`, at least."""
    sampling: Sampling
    forbidden: frozenset[int] = frozenset()


@dataclass
class Request:
    """One attempt of a request in decode."""

    owner: Owner
    job: DecodeJob
    prompt_length: int
    spans: list[Span]
    tokens: list[Token]
    """Emitted in this attempt and not yet handed out; the first comes with the job."""
    num_emitted: int = 1
    num_shared: int = 0
    """Steps that it shared with others."""
    last: int = 0
    reason: Finish | None = None

    def take_tokens(self) -> list[Token]:
        """The tokens that nobody was sent yet."""
        tokens, self.tokens = self.tokens, []
        return tokens

    @property
    def position(self) -> int:
        """Of the last token."""
        return self.prompt_length + self.num_emitted - 1


@dataclass
class Arrival:
    """Transfers of a request on their way in."""

    committed: set[tuple[int, int]] = field(default_factory=set)
    job: DecodeJob | None = None


@dataclass(frozen=True)
class Failure:
    """A request that decode cannot carry on."""

    owner: Owner
    why: str
    retryable: bool = True


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
    """Arriving transfers, ready requests, and the batch."""

    def __init__(
        self, slots: Slots, eos_ids: Collection[int], max_batch: int, grow_tokens: int
    ) -> None:
        self._slots = slots
        self._eos_ids = frozenset(eos_ids)
        self._max_batch = max_batch
        self._grow_tokens = grow_tokens
        self._arrivals: dict[Owner, Arrival] = {}
        self._ready: deque[Request] = deque()
        self._batch: dict[Owner, Request] = {}
        self._stepping: list[Request] = []
        self.steps = 0

    @property
    def num_active(self) -> int:
        """Admitted requests."""
        return len(self._batch)

    @property
    def has_work(self) -> bool:
        """Whether a step would hold anything."""
        return bool(self._batch or self._ready)

    def commit(self, message: KvCommit) -> Failure | None:
        """One transfer is in its slots; with the last of them the request is ready."""
        owner = Owner(message.request, message.attempt)
        if self._slots.ended(owner) or self._is_ready(owner):
            return None
        arrival = self._arrivals.setdefault(owner, Arrival())
        arrival.job = arrival.job or message.job
        missing = message.num_layers - self._slots.num_layers(message)
        if missing:
            self.end(owner)
            return Failure(owner, f"{missing} layers of a transfer never arrived")
        arrival.committed.add((message.chunk, message.rank))
        if arrival.job is None or len(arrival.committed) < message.num_transfers:
            return None
        request = self._request(owner, arrival.job, message.prompt_length)
        if num_slots(request.spans) < request.prompt_length:
            self.end(owner)
            return Failure(owner, "KV of a part of the prompt never arrived")
        del self._arrivals[owner]
        self._ready.append(request)
        return None

    def end(self, owner: Owner) -> bool:
        """Let go of an attempt; whether it was in the batch. A step under way keeps its slots."""
        self._arrivals.pop(owner, None)
        self._ready = deque(request for request in self._ready if request.owner != owner)
        request = self._batch.pop(owner, None)
        self._slots.end(owner)
        return request is not None

    def start(self) -> Boundary:
        """Admit what is ready, make room for one more token each, and form the batch."""
        admitted = []
        while self._ready and len(self._batch) < self._max_batch:
            request = self._ready.popleft()
            self._batch[request.owner] = request
            admitted.append(request)
        failed = [
            failure for request in list(self._batch.values()) if (failure := self._room(request))
        ]
        self._stepping = list(self._batch.values())
        self._slots.pin(self._batch)
        gone = {failure.owner for failure in failed}
        admitted = [request for request in admitted if request.owner not in gone]
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
            if request.owner not in self._batch:
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

    def _request(self, owner: Owner, job: DecodeJob, prompt_length: int) -> Request:
        spans = self._slots.spans(owner)
        return Request(owner, job, prompt_length, spans, [job.first], last=job.first.id)

    def _is_ready(self, owner: Owner) -> bool:
        return owner in self._batch or any(request.owner == owner for request in self._ready)

    def _room(self, request: Request) -> Failure | None:
        """Grow when the slot of the last token is missing."""
        if request.position < num_slots(request.spans):
            return None
        try:
            request.spans = self._slots.grow(request.owner, self._grow_tokens)
        except OutOfPages as error:
            self.end(request.owner)
            return Failure(request.owner, str(error))
        return None

    def _emit(self, request: Request, sampled: Sampled) -> None:
        request.num_emitted += 1
        request.last = sampled.id
        request.reason = finish(request.job.ending, self._eos_ids, sampled.id, request.num_emitted)
        request.tokens.append(
            Token(
                request=request.owner.request,
                attempt=request.owner.attempt,
                index=request.job.first.index + request.num_emitted - 1,
                id=sampled.id,
                logprob=sampled.logprob,
                top=sampled.top,
                finish=request.reason,
            )
        )
