"""Who belongs to the mesh, and which broker serves which decode instance.

Pure. A member is one life (incarnation) of a name; once removed, by death, departure or a newer
life, it can never come back. Whoever removes a member also settles the books that name it.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

from common.messages import (
    LOST_MEMBER,
    PROTOCOL,
    BrokerFacts,
    DecodeFacts,
    Facts,
    Heartbeat,
    Hello,
    KvLayout,
    ModelCard,
    PrefillFacts,
    Role,
)

MAX_MEMBERS = 2048
MAX_REMOVED = 4096
"""Removed lives that are remembered."""


@dataclass(slots=True)
class Registered:
    """A member with the last facts it sent; times in monotonic seconds.

    Args:
        seen: when it was heard last.
        broker: name of the broker of a decode instance.
        leaving: whether it gets nothing new.
        ordered: whether that is an operator's wish.
        asked: whether it waits for its Goodbye, having stopped to take anything new in.
    """

    hello: Hello
    seen: float
    joined: float
    facts: Facts | None = None
    broker: str | None = None
    leaving: bool = False
    ordered: bool = False
    asked: bool = False

    @property
    def name(self) -> str:
        """The member's name."""
        return self.hello.peer.name

    @property
    def inbox(self) -> str:
        """Where it listens."""
        return self.hello.peer.inbox

    @property
    def role(self) -> Role:
        """What it does."""
        return self.hello.role


@dataclass(frozen=True, slots=True)
class Removed:
    """A life that has ended: where it listened, and whether it had asked to go."""

    inbox: str
    departed: bool


class Registry:
    """All members of the mesh but the router.

    Args:
        grace: seconds after a member's joining in which more of them may follow.
        patience: seconds in which a member that is gone may come back.
    """

    def __init__(self, grace: float = 0.0, patience: float = 0.0) -> None:
        self._grace = grace
        self._patience = patience
        self._members: dict[str, Registered] = {}
        self._removed: dict[tuple[str, int], Removed] = {}
        self._missing: dict[str, float] = {}
        self._grown = -math.inf
        self.version = 0
        """Changes with every member that comes, goes or begins to leave."""

    @property
    def members(self) -> list[Registered]:
        """All members, in the order in which they joined."""
        return list(self._members.values())

    @property
    def max_model_len(self) -> int | None:
        """The model's limit on all members, in tokens; None in an empty mesh."""
        return next((one.hello.model.max_model_len for one in self._members.values()), None)

    def refusal(self, hello: Hello) -> str | None:
        """Why a member cannot join; None when it can."""
        if hello.protocol != PROTOCOL:
            return f"protocol {hello.protocol}, this mesh speaks {PROTOCOL}"
        missing = _missing(hello)
        if missing:
            return f"a {hello.role} must name its {', '.join(missing)}"
        known = self._members.get(hello.peer.name)
        if known is not None and known.hello.peer.incarnation > hello.peer.incarnation:
            return f"a newer process has taken the name {hello.peer.name}"
        if self.removed(hello.peer.name, hello.peer.incarnation) is not None:
            return LOST_MEMBER
        if known is not None and known.role != hello.role:
            return f"the name {hello.peer.name} belongs to a {known.role}"
        if known is None and len(self._members) >= MAX_MEMBERS:
            return f"the mesh is full: {MAX_MEMBERS} members"
        return self._mismatch(hello)

    def find(self, name: str, incarnation: int | None = None) -> Registered | None:
        """The member of that name, and of that life when one is given."""
        member = self._members.get(name)
        if member is None or incarnation not in (None, member.hello.peer.incarnation):
            return None
        return member

    def of(self, role: Role) -> list[Registered]:
        """All members of one role, in the order in which they joined."""
        return [member for member in self._members.values() if member.role == role]

    def usage(self) -> dict[str, int]:
        """What all workers together have in use, as they last said."""
        facts = [member.facts for member in self._members.values()]
        prefill = [one for one in facts if isinstance(one, PrefillFacts)]
        decode = [one for one in facts if isinstance(one, DecodeFacts)]
        return {
            "prefill_slots": sum(_used(one) for one in prefill),
            "decode_slots": sum(_used(one) for one in decode),
            "backends": sum(one.lent for one in facts if isinstance(one, BrokerFacts)),
        }

    def removed(self, name: str, incarnation: int) -> Removed | None:
        """What is remembered of a life that was removed."""
        return self._removed.get((name, incarnation))

    def serving(self, role: Role) -> list[Registered]:
        """Those of one role that new requests may use."""
        return [member for member in self.of(role) if not member.leaving]

    def add(self, hello: Hello, now: float) -> Registered:
        """Take a member in that was not refused and whose name is free."""
        member = Registered(hello, now, now)
        self._members[member.name] = member
        self._missing.pop(member.name, None)
        self._grown = now
        self.version += 1
        return member

    def remove(self, name: str, *, departed: bool = False) -> Registered | None:
        """Forget a member; this life of it cannot join again."""
        member = self._members.pop(name, None)
        if member is not None:
            key = (name, member.hello.peer.incarnation)
            self._removed[key] = Removed(member.inbox, departed)
            if len(self._removed) > MAX_REMOVED:
                del self._removed[next(iter(self._removed))]
            self.version += 1
        return member

    def retire(self, member: Registered) -> None:
        """A member begins to leave."""
        member.leaving = True
        self.version += 1

    def miss(self, member: Registered, now: float) -> None:
        """A worker is lost or leaves, and may come back under its name."""
        if member.role in ("prefill-worker", "decode-worker"):
            self._missing[member.name] = now
            if len(self._missing) > MAX_MEMBERS:
                del self._missing[next(iter(self._missing))]

    def is_growing(self, now: float) -> bool:
        """Whether members may still come: some just have, or others are expected back."""
        is_complete = all(now - since >= self._patience for since in self._missing.values())
        return now - self._grown < self._grace or not is_complete

    def beat(self, heartbeat: Heartbeat, now: float) -> Registered | None:
        """Note a member's facts; None when this life of it is unknown."""
        member = self.find(heartbeat.name, heartbeat.incarnation)
        if member is not None and member.role == heartbeat.role:
            member.facts, member.seen = heartbeat.facts, now
            return member
        return None

    def assign_brokers(self) -> list[Registered]:
        """Give every decode instance without a broker that stays the least loaded one that does.

        Returns:
            The decode instances whose broker is another one, or none, since.
        """
        brokers = self.serving("kv-transfer") or self.of("kv-transfer")
        loads = {member.name: 0 for member in brokers}
        orphans = []
        for decode in self.of("decode-worker"):
            if decode.broker in loads:
                loads[decode.broker] += 1
            else:
                orphans.append((decode, decode.broker))
        for decode, _ in orphans:
            decode.broker = min(loads, key=loads.__getitem__, default=None)
            if decode.broker is not None:
                loads[decode.broker] += 1
        return [decode for decode, before in orphans if decode.broker != before]

    def _mismatch(self, hello: Hello) -> str | None:
        for member in self._others(hello.peer.name):
            reason = _model_mismatch(hello.model, member.hello.model)
            if reason is None and hello.layout is not None and member.hello.layout is not None:
                reason = _layout_mismatch(hello.layout, member.hello.layout)
            if reason is not None:
                return f"{reason} (as {member.name})"
        return None

    def _others(self, name: str) -> Iterator[Registered]:
        return (member for member in self._members.values() if member.name != name)


def _used(facts: PrefillFacts | DecodeFacts) -> int:
    """Slots in use; a worker that contradicts itself must not make a message that nobody takes."""
    return max(0, facts.total_slots - facts.free_slots)


def _missing(hello: Hello) -> list[str]:
    needed: tuple[str, ...] = ()
    if hello.role == "router":
        return ["own mesh, for there is one router"]
    if hello.role == "prefill-worker":
        needed = ("layout", "ring", "balance", "total_slots")
    elif hello.role == "decode-worker":
        needed = ("layout", "link", "total_slots", "num_backends")
    return [field for field in needed if not getattr(hello, field)]


def _model_mismatch(ours: ModelCard, theirs: ModelCard) -> str | None:
    if ours.fingerprint != theirs.fingerprint:
        return f"model {ours.fingerprint}, this mesh serves {theirs.fingerprint}"
    if ours.max_model_len != theirs.max_model_len:
        return f"max_model_len {ours.max_model_len}, this mesh has {theirs.max_model_len}"
    return None


def _layout_mismatch(ours: KvLayout, theirs: KvLayout) -> str | None:
    return None if ours == theirs else f"KV layout {ours}, this mesh has {theirs}"
