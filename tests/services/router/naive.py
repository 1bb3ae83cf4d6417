"""Members as simple as can be, to be driven against a router: what each life holds and says."""

from dataclasses import dataclass, field

from common.messages import (
    LOST_MEMBER,
    Admitted,
    BrokerFacts,
    Cancel,
    ChunkDone,
    DecodeFacts,
    EndOfRequest,
    Failed,
    GatewayFacts,
    Goodbye,
    Heartbeat,
    Held,
    Hello,
    Message,
    Open,
    PrefillFacts,
    Ready,
    Refused,
    Rejected,
    Released,
    RunChunk,
    Skip,
    Welcome,
)
from common.pages import Owner
from services.router.memory import member_slots


@dataclass
class Life:
    """One life of a member; `is_over` when the router has said so, or a new one has begun."""

    hello: Hello
    is_member: bool = False
    is_over: bool = False
    turns: dict[int, RunChunk | None] = field(default_factory=dict)
    finished: int = 0
    held: dict[Owner, int] = field(default_factory=dict)
    admitted: set[Owner] = field(default_factory=set)
    ended: set[Owner] = field(default_factory=set)
    open: set[Owner] = field(default_factory=set)
    """What a gateway waits for, once accepted."""
    failed: set[Owner] = field(default_factory=set)
    """What a gateway may try again."""

    @property
    def name(self) -> str:
        return self.hello.peer.name

    @property
    def incarnation(self) -> int:
        return self.hello.peer.incarnation

    @property
    def received(self) -> int:
        turn = 0
        while turn + 1 in self.turns:
            turn += 1
        return turn

    def take(self, message: Message) -> None:
        """A message of the router has arrived."""
        match message:
            case Welcome(incarnation=life) if life == self.incarnation:
                self.is_member = True
            case Refused(incarnation=life, reason=reason):
                self.is_over = self.is_over or (life, reason) == (self.incarnation, LOST_MEMBER)
            case Goodbye(incarnation=life):
                self.is_over = self.is_over or life == self.incarnation
            case RunChunk() as run if run.members[run.rank].incarnation == self.incarnation:
                self.turns.setdefault(run.turn, run)
            case Skip(incarnation=life, turn=turn) if life == self.incarnation:
                self.turns.setdefault(turn, None)
            case EndOfRequest() | Cancel() | Failed() | Rejected():
                self.end(message)

    def end(self, message: EndOfRequest | Cancel | Failed | Rejected) -> None:
        owner = Owner(message.request, message.attempt)
        if owner in self.open and isinstance(message, Failed):
            self.failed.add(owner)
        self.ended.add(owner)
        self.open.discard(owner)
        self.admitted.discard(owner)
        if self.hello.role != "prefill-worker":
            self.held.pop(owner, None)

    def compute(self) -> list[Message]:
        """A prefill instance comes to its next turn and finishes it."""
        turn = self.finished + 1
        if turn > self.received:
            return []
        self.finished = turn
        run = self.turns[turn]
        if run is None:
            return []
        owner = Owner(run.request, run.attempt)
        self.held[owner] = member_slots(run.chunks, run.rank)
        place = (self.name, self.incarnation, run.seq, run.turn)
        done = ChunkDone(*place, *owner, run.index, 0.1, 0.0, 0.0, 0.0, 0, 0)
        return [Ready(*place), done]

    def release(self, owner: Owner) -> Released | None:
        """Nothing of an attempt is left, unless a chunk of it is still to come."""
        runs = [run for turn, run in self.turns.items() if run and turn > self.finished]
        if owner not in self.held or owner in {(run.request, run.attempt) for run in runs}:
            return None
        del self.held[owner]
        return Released(self.name, self.incarnation, *owner)

    def admit(self, owner: Owner, slots: int) -> Admitted:
        """A decode instance decodes an attempt from now on."""
        self.held[owner] = slots
        self.admitted.add(owner)
        return Admitted(self.name, self.incarnation, *owner, slots)

    def beat(self) -> Heartbeat:
        """The truth about this life."""
        peer = self.hello.peer
        return Heartbeat(self.hello.role, peer.name, peer.incarnation, self._facts(), peer.inbox)

    def _facts(self) -> PrefillFacts | DecodeFacts | BrokerFacts | GatewayFacts:
        total = self.hello.total_slots
        free = total - sum(self.held.values())
        held = tuple(
            Held(*owner, slots, admitted=owner in self.admitted)
            for owner, slots in self.held.items()
        )
        match self.hello.role:
            case "prefill-worker":
                return PrefillFacts(77, self.received, self.finished, total, free, None, held)
            case "decode-worker":
                return DecodeFacts(total, free, len(self.admitted), 1, held)
            case "gateway":
                open_ = tuple(Open(*owner, 0) for owner in sorted(self.open))
                return GatewayFacts(len(open_), open_)
            case _:
                return BrokerFacts(2, 0, 0)
