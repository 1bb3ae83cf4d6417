"""Who belongs to the mesh, and which broker serves which decode instance.

Pure. A member is one life (incarnation) of a name; a new life replaces the old one, which can
never come back. Whoever removes a member (replacement now; death and drain use the same way)
must also settle the books that name it.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from common.messages import (
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
MAX_REPLACED = 4096
"""Replaced lives that are remembered."""


@dataclass(slots=True)
class Registered:
    """A member with the last facts it sent; `seen` in monotonic seconds."""

    hello: Hello
    seen: float
    facts: Facts | None = None
    broker: str | None = None
    """Name of the broker of a decode instance."""

    @property
    def name(self) -> str:
        """The member's name."""
        return self.hello.peer.name

    @property
    def inbox(self) -> str:
        """Where it listens."""
        return self.hello.peer.inbox


class Registry:
    """All members of the mesh but the router."""

    def __init__(self) -> None:
        self._members: dict[str, Registered] = {}
        self._replaced: dict[int, None] = {}

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
        if hello.peer.incarnation in self._replaced:
            return f"a newer process has taken the name {hello.peer.name}"
        known = self._members.get(hello.peer.name)
        if known is not None and known.hello.role != hello.role:
            return f"the name {hello.peer.name} belongs to a {known.hello.role}"
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
        return [member for member in self._members.values() if member.hello.role == role]

    def usage(self) -> dict[str, int]:
        """What all workers together have in use, as they last said."""
        facts = [member.facts for member in self._members.values()]
        prefill = [one for one in facts if isinstance(one, PrefillFacts)]
        decode = [one for one in facts if isinstance(one, DecodeFacts)]
        return {
            "prefill_slots": sum(one.total_slots - one.free_slots for one in prefill),
            "decode_slots": sum(one.total_slots - one.free_slots for one in decode),
            "backends": sum(one.lent for one in facts if isinstance(one, BrokerFacts)),
        }

    def add(self, hello: Hello, now: float) -> Registered:
        """Take a member in that was not refused and whose name is free."""
        member = Registered(hello, now)
        self._members[member.name] = member
        return member

    def remove(self, name: str) -> Registered | None:
        """Forget a member; this life of it cannot join again."""
        member = self._members.pop(name, None)
        if member is not None:
            self._replaced[member.hello.peer.incarnation] = None
            if len(self._replaced) > MAX_REPLACED:
                del self._replaced[next(iter(self._replaced))]
        return member

    def beat(self, heartbeat: Heartbeat, now: float) -> Registered | None:
        """Note a member's facts; None when this life of it is unknown."""
        member = self.find(heartbeat.name, heartbeat.incarnation)
        if member is not None and member.hello.role == heartbeat.role:
            member.facts, member.seen = heartbeat.facts, now
            return member
        return None

    def assign_brokers(self) -> list[Registered]:
        """Give every decode instance without a living broker the least loaded one.

        Returns:
            The decode instances whose broker is new.
        """
        loads = {member.name: 0 for member in self.of("kv-transfer")}
        orphans = []
        for decode in self.of("decode-worker"):
            if decode.broker in loads:
                loads[decode.broker] += 1
            else:
                orphans.append(decode)
        for decode in orphans:
            decode.broker = min(loads, key=loads.__getitem__, default=None)
            if decode.broker is not None:
                loads[decode.broker] += 1
        return [decode for decode in orphans if decode.broker is not None]

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
