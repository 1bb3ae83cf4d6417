"""Every message of the mesh, once.

Control messages travel through `common.mesh`, link messages through `common.links`. Each is a
frozen Struct with bounds on every field; raw buffers follow the header as `num_frames` further
frames. No message relies on another link's message having arrived before it: whatever the
receiver needs (endpoints, the whole plan, sampling) stands in the message itself.
"""

from typing import Annotated, ClassVar, Literal

from msgspec import Meta, Struct

from common.events import Happening, Wall
from common.schedule import Rate, Schedule, ScheduleChange, Size

PROTOCOL = 4
"""Version of this file; members that differ are refused when they join."""

Name = Annotated[str, Meta(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
Endpoint = Annotated[str, Meta(min_length=1, max_length=256)]
RequestId = Annotated[str, Meta(min_length=1, max_length=128)]
Text = Annotated[str, Meta(max_length=2048)]
Count = Annotated[int, Meta(ge=0, le=2**31 - 1)]
Number = Annotated[int, Meta(ge=0, le=2**63 - 1)]
Attempt = Annotated[int, Meta(ge=1, le=1_000_000)]
Seconds = Annotated[float, Meta(ge=0, le=1e9)]
TokenId = Annotated[int, Meta(ge=0, le=2**31 - 1)]
Logprob = Annotated[float, Meta(ge=-1e9, le=0.001)]
Role = Literal["gateway", "router", "prefill-worker", "decode-worker", "kv-transfer"]
Finish = Literal["stop", "length", "error", "abort"]


class Part(Struct, frozen=True, forbid_unknown_fields=True):
    """A value inside a message."""


class Message(Struct, frozen=True, forbid_unknown_fields=True, tag_field="type", tag=True):
    """A message of its own: a tagged header, then `num_frames` raw frames."""

    num_frames: ClassVar[int] = 0


# Values


class KvLayout(Part, frozen=True):
    """What one token's KV looks like; equal on all workers of a mesh."""

    num_layers: Annotated[int, Meta(ge=1, le=1024)]
    num_kv_heads: Annotated[int, Meta(ge=1, le=1024)]
    head_dim: Annotated[int, Meta(ge=1, le=4096)]
    dtype: Literal["float32", "bfloat16", "float16"]

    def bytes_per_token(self) -> int:
        """Bytes of keys and values of one token over all layers."""
        width = 4 if self.dtype == "float32" else 2
        return 2 * self.num_layers * self.num_kv_heads * self.head_dim * width


class ModelCard(Part, frozen=True):
    """The model that a member serves; all members of a mesh agree on it."""

    name: Annotated[str, Meta(min_length=1, max_length=256)]
    fingerprint: Annotated[str, Meta(min_length=1, max_length=128)]
    max_model_len: Annotated[int, Meta(ge=1, le=2**31 - 1)]


class Peer(Part, frozen=True):
    """Where a process listens for control messages, and which life of it is meant."""

    name: Name
    incarnation: Number
    inbox: Endpoint


class Member(Part, frozen=True):
    """A prefill instance inside a plan."""

    name: Name
    incarnation: Number
    inbox: Endpoint
    ring: Endpoint
    balance: Endpoint


class Target(Part, frozen=True):
    """The decode instance that takes a request's KV, and the broker that lends its backends."""

    name: Name
    incarnation: Number
    inbox: Endpoint
    link: Endpoint
    num_backends: Size
    broker: Endpoint


class Chunk(Part, frozen=True):
    """Consecutive prompt tokens, run by the first `size` members of the plan."""

    history: Count
    length: Annotated[int, Meta(ge=1, le=2**31 - 1)]
    size: Size


MAX_BIASES = 300
"""Entries of a `logit_bias`."""
MAX_PAST = 786_432
"""Bytes of the ids that penalties look back at, which travel in a header; four an id."""


class Bias(Part, frozen=True):
    """What is added to the logit of one id."""

    id: TokenId
    value: Annotated[float, Meta(ge=-100, le=100)]


class Sampling(Part, frozen=True):
    """How tokens are drawn; with (choice, position, ids so far, logits) it fixes every token."""

    temperature: Annotated[float, Meta(ge=0, le=100)] = 1.0
    top_p: Annotated[float, Meta(gt=0, le=1)] = 1.0
    top_k: Count = 0
    min_p: Annotated[float, Meta(ge=0, le=1)] = 0.0
    seed: Number = 0
    choice: Annotated[int, Meta(ge=0, le=1024)] = 0
    logprobs: Annotated[int, Meta(ge=-1, le=20)] = -1
    """Top alternatives reported with each token; -1 reports nothing."""
    presence_penalty: Annotated[float, Meta(ge=-2, le=2)] = 0.0
    frequency_penalty: Annotated[float, Meta(ge=-2, le=2)] = 0.0
    repetition_penalty: Annotated[float, Meta(gt=0, le=100)] = 1.0
    """Looks at the prompt, too; the other two at emitted tokens only."""
    biases: Annotated[tuple[Bias, ...], Meta(max_length=MAX_BIASES)] = ()

    @property
    def looks_back(self) -> bool:
        """Whether a token depends on the ids before it other than through the logits."""
        penalties = (self.presence_penalty, self.frequency_penalty, self.repetition_penalty)
        return penalties != (0.0, 0.0, 1.0)


class Ending(Part, frozen=True):
    """What ends a generation; judged on tokens by the workers, on text by the gateway."""

    max_tokens: Annotated[int, Meta(ge=1, le=2**31 - 1)]
    """Tokens that may still be emitted, counted from this attempt's first."""
    min_tokens: Count = 0
    ignore_eos: bool = False
    stop_token_ids: Annotated[tuple[TokenId, ...], Meta(max_length=64)] = ()


class Alternative(Part, frozen=True):
    """One entry of a token's top logprobs."""

    id: TokenId
    logprob: Logprob


class Token(Part, frozen=True):
    """One emitted token; `index` counts from the request's first, across attempts."""

    request: RequestId
    attempt: Attempt
    index: Count
    id: TokenId
    logprob: Logprob | None = None
    top: Annotated[tuple[Alternative, ...], Meta(max_length=20)] = ()
    finish: Finish | None = None


class Running(Part, frozen=True):
    """The chunk that an instance computes, its group being together, and the last layer done."""

    seq: Number
    layer: Count


class Held(Part, frozen=True):
    """What a request holds at one place: KV slots on a worker, backends at a broker."""

    request: RequestId
    attempt: Attempt
    slots: Count
    age: Seconds = 0.0
    """Seconds since it got the first of them."""
    admitted: bool = False
    """Whether a decode instance has all of its KV and decodes it."""


Holdings = Annotated[tuple[Held, ...], Meta(max_length=4096)]


class Open(Part, frozen=True):
    """A request that a gateway holds for its client and that a router has accepted."""

    request: RequestId
    attempt: Attempt
    num_emitted: Count
    """Tokens that have come, over all attempts."""


class PrefillFacts(Part, frozen=True, tag_field="type", tag=True):
    """What a prefill instance knows of itself; turns are those of `epoch`."""

    epoch: Number
    received_through: Count
    finished_through: Count
    total_slots: Count
    free_slots: Count
    running: Running | None = None
    held: Holdings = ()

    @property
    def idle(self) -> bool:
        """Whether it could leave without anybody missing it."""
        return self.running is None and not self.held


class DecodeFacts(Part, frozen=True, tag_field="type", tag=True):
    """What a decode instance knows of itself; `active` counts admitted requests."""

    total_slots: Count
    free_slots: Count
    active: Count
    steps: Number
    held: Holdings = ()

    @property
    def idle(self) -> bool:
        """Whether it could leave without anybody missing it."""
        return not self.held


class BrokerFacts(Part, frozen=True, tag_field="type", tag=True):
    """What a kv-transfer service knows of itself."""

    backends: Count
    lent: Count
    waiting: Count
    held: Holdings = ()
    oldest: Seconds = 0.0
    """Age of the oldest handshake that waits for a backend."""

    @property
    def idle(self) -> bool:
        """Whether it could leave without anybody missing it."""
        return not (self.held or self.waiting)


class InForce(Part, frozen=True):
    """A schedule, and which one it is: of two, the newer one counts."""

    version: Number
    """Nanoseconds of the wall clock when a router put it in force; 0 for its configuration."""
    schedule: Schedule


class GatewayFacts(Part, frozen=True, tag_field="type", tag=True):
    """What a gateway knows of itself."""

    streams: Count
    open: Annotated[tuple[Open, ...], Meta(max_length=4096)] = ()
    schedule: Number = 0
    """Version of the newest schedule that it has heard of."""
    newer: InForce | None = None
    """That schedule, when the router seems not to know it."""

    @property
    def idle(self) -> bool:
        """Whether it could leave without anybody missing it."""
        return self.streams == 0


Facts = PrefillFacts | DecodeFacts | BrokerFacts | GatewayFacts


# Membership


class Hello(Message, frozen=True):
    """A process asks to join; repeated until welcomed or refused."""

    role: Role
    peer: Peer
    node: Name
    protocol: Count
    model: ModelCard
    layout: KvLayout | None = None
    ring: Endpoint | None = None
    balance: Endpoint | None = None
    link: Endpoint | None = None
    total_slots: Count = 0
    num_backends: Count = 0
    device: Annotated[str, Meta(max_length=128)] = ""
    """What a prefill instance computes on: chunks of equal devices take equally long."""


class Brokerage(Part, frozen=True):
    """Which broker lends the backends of a decode instance now."""

    target: Name
    incarnation: Number
    broker: Endpoint


class Welcome(Message, frozen=True):
    """The router has taken a member in, and renews its leases; `epoch` is this router's life.

    The answer to each Hello and to each Heartbeat, so that nothing in it can get lost for long.
    """

    epoch: Number
    incarnation: Number
    broker: Endpoint | None = None
    """Broker of this decode instance."""
    brokers: Annotated[tuple[Brokerage, ...], Meta(max_length=256)] = ()
    """Brokers of all decode instances, for prefill instances."""
    leave: bool = False
    """Whether an operator wants this member to drain and leave for good."""


class Leave(Message, frozen=True):
    """A member wants to go: nothing new for it, please; repeated until `Goodbye`."""

    name: Name
    incarnation: Number


class Goodbye(Message, frozen=True):
    """Nothing of the mesh depends on the member any more; it may go."""

    incarnation: Number


UNKNOWN_MEMBER = "unknown member"
"""The reason of a `Refused` that only asks for a new `Hello`, as after a router's restart."""
LOST_MEMBER = "lost member"
"""The reason of a `Refused` to a life that counts as dead: all it held has been given up.

It lets go of everything and may join again as a new life.
"""


class Refused(Message, frozen=True):
    """The router cannot take a member in, and why; or it asks an unknown one for a `Hello`."""

    incarnation: Number
    reason: Text


class Heartbeat(Message, frozen=True):
    """Facts of a member, every 0.5 s from its event loop."""

    role: Role
    name: Name
    incarnation: Number
    facts: Facts
    inbox: Endpoint | None = None
    """Where a router that does not know this member may ask for a `Hello`."""


class ClusterState(Message, frozen=True):
    """What gateways must know of the mesh, in answer to each of their heartbeats."""

    epoch: Number
    num_prefill: Count
    num_decode: Count
    num_brokers: Count
    waiting: Count
    requests: Number = 0
    """Requests that are not over, those that wait included."""
    prefill_slots: Number = 0
    """KV slots in use, as the workers last said."""
    decode_slots: Number = 0
    backends: Number = 0
    """Backends lent."""
    schedule: Number = 0
    """Version of the newest schedule that the router has heard of."""
    newer: InForce | None = None
    """The schedule in force, when the gateway does not know it."""


# Requests


class Submit(Message, frozen=True):
    """A request, or its next attempt; frame 1 is prompt + emitted ids as int32."""

    num_frames: ClassVar[int] = 1

    request: RequestId
    attempt: Attempt
    reply: Peer
    num_tokens: Annotated[int, Meta(ge=1, le=2**31 - 1)]
    num_emitted: Count
    sampling: Sampling
    ending: Ending
    forced_plan: Annotated[str, Meta(max_length=256)] | None = None
    evicted: bool = False
    """Whether decode once evicted it: now it reserves all that it may still need."""
    prompt_logprobs: Annotated[int, Meta(ge=-1, le=20)] = -1
    """Top alternatives reported with each prompt token; -1 reports nothing."""
    patience: Seconds | None = None
    """Seconds until its client gives up: no use in a first token that is predicted for later."""


class Accepted(Message, frozen=True):
    """The router holds the request."""

    request: RequestId
    attempt: Attempt
    predicted_ttft: Seconds | None = None
    """Seconds from now; None where it cannot be known."""


class Rejected(Message, frozen=True):
    """The router will not run the request."""

    request: RequestId
    attempt: Attempt
    status: Annotated[int, Meta(ge=400, le=599)]
    reason: Text
    retry_after: Seconds | None = None


class Cancel(Message, frozen=True):
    """Nobody waits for this request any more."""

    request: RequestId
    attempt: Attempt


class EndOfRequest(Message, frozen=True):
    """The attempt is over; whoever holds anything of it lets go. Idempotent."""

    request: RequestId
    attempt: Attempt
    num_tokens: Count
    """Emitted over all attempts; 0 when it was given up."""
    reason: Finish
    sender: Endpoint | None = None
    """Inbox of a worker that ended it and repeats this until the router sends it back."""


class Failed(Message, frozen=True):
    """A request could not be carried on at one place."""

    request: RequestId
    attempt: Attempt
    what: Text
    why: Text
    retryable: bool
    evicted: bool = False
    """Whether it only had to make room; such an attempt does not count as a failure."""
    sender: Endpoint | None = None
    """Inbox of a worker that repeats this until the router answers with `EndOfRequest`."""


# Prefill


class RunChunk(Message, frozen=True):
    """One chunk of a plan, to each of its members; frame 1 is the chunk's ids as int32.

    One look-ahead id (the next prompt token) follows the chunk's own, except in the last chunk.
    `seq` orders all chunks of the mesh, `turn` the chunks of this member without gaps.
    """

    num_frames: ClassVar[int] = 1

    epoch: Number
    seq: Number
    turn: Annotated[int, Meta(ge=1, le=2**31 - 1)]
    request: RequestId
    attempt: Attempt
    index: Count
    chunks: Annotated[tuple[Chunk, ...], Meta(min_length=1, max_length=64)]
    members: Annotated[tuple[Member, ...], Meta(min_length=1, max_length=1024)]
    rank: Count
    target: Target
    gateway: Peer
    router: Endpoint
    num_emitted: Count
    reserve: Count
    """Slots to reserve at decode: the prompt and tokens to come."""
    sampling: Sampling
    ending: Ending
    predicted: Seconds
    past: Annotated[bytes, Meta(max_length=MAX_PAST)] = b""
    """Prompt and emitted ids as int32, in the last chunk where `sampling.looks_back`."""
    prompt_logprobs: Annotated[int, Meta(ge=-1, le=20)] = -1
    """As in Submit; the look-ahead id is the token that follows the chunk."""
    received: Wall = 0.0
    """When the router got the request."""
    planned: Wall = 0.0
    """When it began to plan it, for the time that led to this plan."""


class Skip(Message, frozen=True):
    """A turn that is void, for one life of a member."""

    incarnation: Number
    epoch: Number
    turn: Annotated[int, Meta(ge=1, le=2**31 - 1)]


class Ready(Message, frozen=True):
    """A member has come to this turn and waits for its group."""

    name: Name
    incarnation: Number
    seq: Number
    turn: Count


class ChunkDone(Message, frozen=True):
    """A member has computed a chunk; seconds of each phase."""

    name: Name
    incarnation: Number
    seq: Number
    turn: Count
    request: RequestId
    attempt: Attempt
    index: Count
    compute: Seconds
    wait: Seconds
    balance: Seconds
    send: Seconds
    """Seconds in which KV had to be sent after the chunk's compute ended, 0 while under way."""
    sent_bytes: Number
    """KV bytes of this chunk that decode had acknowledged when compute ended."""
    total_bytes: Number
    gather: Seconds = 0.0
    """The part of `wait` before all members had come to the chunk."""


class Released(Message, frozen=True):
    """A prefill instance holds no KV of the request any more."""

    name: Name
    incarnation: Number
    request: RequestId
    attempt: Attempt


# KV hand-over


class Loan(Part, frozen=True):
    """A backend that was lent, and which time."""

    backend: Count
    generation: Number


class Handshake(Message, frozen=True):
    """A member asks for a backend to send one chunk's KV; repeated until granted.

    A member that has been granted one tells a new broker of it with `held`.
    """

    request: RequestId
    attempt: Attempt
    chunk: Count
    rank: Count
    sender: Peer
    target: Target
    num_transfers: Annotated[int, Meta(ge=1, le=65536)]
    """Transfers of the whole request: the sum of all chunks' sizes."""
    num_senders: Size
    """Size of the largest group, the most backends that the request can use."""
    held: Loan | None = None
    """The loan that this transfer uses already, from a former life of the broker."""


class Grant(Message, frozen=True):
    """The right to send one chunk's KV through one backend."""

    request: RequestId
    attempt: Attempt
    chunk: Count
    rank: Count
    backend: Count
    generation: Number


class Release(Message, frozen=True):
    """Decode holds one transfer's KV in its pages; the backend is free for the next sender."""

    request: RequestId
    attempt: Attempt
    chunk: Count
    rank: Count
    target: Name
    incarnation: Number
    is_last: bool = False
    """Whether all transfers of the request are through."""


# Decode


class ChunkTimes(Part, frozen=True):
    """One chunk as the owner of the last prompt token saw it; wall clock."""

    arrived: Wall
    """Its RunChunk has come."""
    begun: Wall
    """This member has come to it."""
    gathered: Wall
    """All members have come to it."""
    ended: Wall
    balance: Seconds
    """The part between `gathered` and `ended` in which it waited for history of others."""


class Times(Part, frozen=True):
    """The way of a request to its first token, for who measures it; wall clock."""

    received: Wall
    """The router got it."""
    planned: Wall
    """The router began to plan it."""
    chunks: Annotated[tuple[ChunkTimes, ...], Meta(max_length=64)]
    sampled: Wall


class FirstToken(Message, frozen=True):
    """Token 0, straight from the owner of the last prompt token."""

    token: Token
    decode: Peer
    times: Times | None = None


class Score(Part, frozen=True):
    """Log-probability of one prompt token given those before it, with the likeliest ones."""

    logprob: Logprob
    top: Annotated[tuple[Alternative, ...], Meta(max_length=20)] = ()


class PromptScores(Message, frozen=True):
    """Scores of consecutive prompt positions, from the member that has their logits.

    Repeated until the gateway answers with `Scored`.
    """

    request: RequestId
    attempt: Attempt
    start: Annotated[int, Meta(ge=1, le=2**31 - 1)]
    """Position of the first scored token; the token at position 0 has no score."""
    scores: Annotated[tuple[Score, ...], Meta(min_length=1, max_length=1024)]
    sender: Endpoint


class Scored(Message, frozen=True):
    """A gateway has scores from this position on, or does not want them any more."""

    request: RequestId
    attempt: Attempt
    start: Count


class Joining(Part, frozen=True):
    """How a request came into the batch; wall clock."""

    request: RequestId
    attempt: Attempt
    committed: Wall
    """All its KV had come."""
    begun: Wall
    """Its first step began."""


class TokenBatch(Message, frozen=True):
    """One decode step's tokens for one gateway, or tokens that it has asked for again."""

    decode: Peer
    tokens: Annotated[tuple[Token, ...], Meta(min_length=1, max_length=4096)]
    joined: Annotated[tuple[Joining, ...], Meta(max_length=4096)] = ()
    """Of requests whose first step this is."""


class Resend(Message, frozen=True):
    """A gateway misses tokens: those from `index` on again, please.

    The answer is a `TokenBatch`, nothing when there is no such token yet, or `Failed` when the
    instance does not know the attempt.
    """

    request: RequestId
    attempt: Attempt
    index: Count
    reply: Peer


class Admitted(Message, frozen=True):
    """A decode instance holds all KV of the request and decodes it."""

    name: Name
    incarnation: Number
    request: RequestId
    attempt: Attempt
    slots: Count


class DecodeStats(Message, frozen=True):
    """Slot statistics, sent whenever a request leaves the batch."""

    name: Name
    incarnation: Number
    facts: DecodeFacts


# Operators

Query = Annotated[int, Meta(ge=0, le=2**63 - 1)]
"""Number of a question, chosen by who asks."""
State = Literal["serving", "leaving"]


class MemberStatus(Part, frozen=True):
    """One member of the mesh, as the router sees it."""

    name: Name
    role: Role
    node: Name
    incarnation: Number
    state: State
    age: Seconds
    """Seconds since it joined."""
    silence: Seconds
    """Seconds since its last heartbeat."""
    delay: Seconds
    """Seconds until a prefill instance has finished all that is planned on it."""
    total: Count
    """KV slots of a worker, backends of a broker, streams of a gateway."""
    used: Count
    active: Count
    """Chunks planned, requests decoding, transfers under way, streams open."""


class LedgerEntry(Part, frozen=True):
    """What one attempt holds at one member."""

    member: Name
    role: Role
    request: RequestId
    attempt: Attempt
    slots: Count
    """KV slots, or backends at a broker."""
    age: Seconds
    """Seconds since it got the first of them."""
    lease: Seconds
    """Seconds until the member lets go of it, unless the router renews the lease."""
    live: bool
    """Whether the router knows of a client that waits for it."""


class Events(Message, frozen=True):
    """What has happened since the last of these, to every gateway; never repeated."""

    epoch: Number
    first: Number
    """Number of the first event, counted from 0 in each epoch: a gap means that some got lost."""
    events: Annotated[tuple[Happening, ...], Meta(min_length=1, max_length=1024)]


class Ask(Message, frozen=True):
    """A question to the router about the mesh, or why a request has got its plan."""

    query: Query
    reply: Endpoint
    what: Literal["status", "ledger", "schedule", "plan"]
    request: RequestId | None = None
    """Whose plan."""


class Explained(Message, frozen=True):
    """The answer: what the newest plan of a request was chosen from."""

    query: Query
    explanation: Annotated[bytes, Meta(max_length=524288)]
    """JSON, made for people; empty when the router does not remember the request."""


class Status(Message, frozen=True):
    """The answer: members, load, policy."""

    query: Query
    epoch: Number
    waiting: Count
    requests: Count
    policy: Text
    members: Annotated[tuple[MemberStatus, ...], Meta(max_length=2048)]
    latency: Text = ""
    """How well the latency model is known, and how far chunks are off it."""


class Ledger(Message, frozen=True):
    """The answer: every KV slot and backend that is not free, as of the last heartbeats."""

    query: Query
    entries: Annotated[tuple[LedgerEntry, ...], Meta(max_length=4096)]
    num_entries: Count
    """All there are, also those for which this message had no room."""


class Drain(Message, frozen=True):
    """An operator wants a member to hand over what it has and leave for good."""

    query: Query
    reply: Endpoint
    name: Name


class Update(Message, frozen=True):
    """An operator wants another schedule; repeated until answered, and taken once."""

    query: Query
    reply: Endpoint
    change: ScheduleChange
    known: InForce | None = None
    """The newest schedule that the gateway has heard of, for a router that begins anew."""


class Scheduled(Message, frozen=True):
    """The answer to `Update` and to a question for the schedule: what is in force now."""

    query: Query
    epoch: Number
    current: InForce
    improvement_rate: Rate
    load: Seconds | None = None
    """Requests per second in the last whole period."""
    refusal: Text | None = None
    """Why nothing has changed; begins with the key, a colon and a blank."""


class Draining(Message, frozen=True):
    """The answer; with a reason when the member cannot be drained."""

    query: Query
    refusal: Text | None = None


ControlMessage = (
    Hello
    | Welcome
    | Leave
    | Goodbye
    | Refused
    | Heartbeat
    | ClusterState
    | Submit
    | Accepted
    | Rejected
    | Cancel
    | EndOfRequest
    | Failed
    | RunChunk
    | Skip
    | Ready
    | ChunkDone
    | Released
    | Handshake
    | Grant
    | Release
    | FirstToken
    | TokenBatch
    | PromptScores
    | Scored
    | Resend
    | Admitted
    | DecodeStats
    | Events
    | Ask
    | Explained
    | Status
    | Ledger
    | Drain
    | Draining
    | Update
    | Scheduled
)


# Links

Interval = tuple[Count, Count]
"""Prompt positions [start, stop)."""
Intervals = Annotated[tuple[Interval, ...], Meta(max_length=4096)]


class RingReady(Message, frozen=True):
    """A member stands at the start of a chunk's ring."""

    request: RequestId
    attempt: Attempt
    chunk: Count
    rank: Count
    incarnation: Number
    again: bool = False
    """Whether it waits for the receiver, whose own message may have got lost."""


class RingAbort(Message, frozen=True):
    """A member leaves the group of an attempt for good; nobody is to wait for it."""

    request: RequestId
    attempt: Attempt
    rank: Count
    incarnation: Number


class RingBlock(Message, frozen=True):
    """KV on its way round the ring; frames: keys, values of [history | shard A | shard B]."""

    num_frames: ClassVar[int] = 2

    request: RequestId
    attempt: Attempt
    chunk: Count
    layer: Count
    step: Count
    origin: Count
    """Rank whose KV this is."""
    num_history: Count
    incarnation: Number


class BalanceBlock(Message, frozen=True):
    """History that an old member gives a new one; frames: keys, values of one layer."""

    num_frames: ClassVar[int] = 2

    request: RequestId
    attempt: Attempt
    chunk: Count
    layer: Count
    origin: Count
    num_tokens: Count
    incarnation: Number


class DecodeJob(Part, frozen=True):
    """All that decode needs beside KV to carry a request on."""

    gateway: Peer
    router: Endpoint
    first: Token
    sampling: Sampling
    ending: Ending
    past: Annotated[bytes, Meta(max_length=MAX_PAST)] = b""
    """Prompt and emitted ids as int32, `first` not among them, where `sampling.looks_back`."""


class KvLayer(Message, frozen=True):
    """One layer of one chunk from one member; frames: keys, values, tokens as in `intervals`."""

    num_frames: ClassVar[int] = 2

    request: RequestId
    attempt: Attempt
    chunk: Count
    rank: Count
    layer: Count
    backend: Count
    generation: Number
    intervals: Intervals
    prompt_length: Count
    reserve: Count
    """Slots to reserve when this is the request's first KV: prompt + tokens to come."""
    reply: Endpoint
    incarnation: Number


class KvCommit(Message, frozen=True):
    """All layers of one transfer have been sent; the last token's owner adds the job.

    A member without tokens in the chunk commits all the same, with `num_layers` 0.
    """

    request: RequestId
    attempt: Attempt
    chunk: Count
    rank: Count
    backend: Count
    generation: Number
    num_transfers: Annotated[int, Meta(ge=1, le=65536)]
    num_layers: Count
    num_tokens: Count
    prompt_length: Count
    reserve: Count
    broker: Endpoint
    reply: Endpoint
    incarnation: Number
    job: DecodeJob | None = None
    epoch: Number = 0
    """Of the router that planned it: commits of two plans do not add up to one request."""


class KvAck(Message, frozen=True):
    """Decode has copied a layer into its pages; `layer` = num_layers acknowledges the commit."""

    request: RequestId
    attempt: Attempt
    chunk: Count
    rank: Count
    layer: Count
    generation: Number


LinkMessage = RingReady | RingAbort | RingBlock | BalanceBlock | KvLayer | KvCommit | KvAck
