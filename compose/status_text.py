"""The answer to `tetris status`, for people."""

import re

from common.messages import MemberStatus, Role, Status
from compose.table import bar, count, duration, printable, table

HEAD = ("NAME", "ROLE", "STATE", "HEARD", "LOAD", "USED", "BUSY WITH", "DELAY", "UP")
ORDER: tuple[Role, ...] = ("gateway", "router", "prefill-worker", "kv-transfer", "decode-worker")
BUSY: dict[Role, str] = {
    "gateway": "stream",
    "prefill-worker": "chunk",
    "kv-transfer": "transfer",
    "decode-worker": "request",
}
UNIT: dict[Role, str] = {
    "prefill-worker": "slots",
    "kv-transfer": "backends",
    "decode-worker": "slots",
}


def status_text(status: Status) -> str:
    """Queue and policy in a line, latency in another, then one line for each member."""
    members = sorted(status.members, key=_place)
    head = (
        f"{count(len(members), 'member')}, {count(status.requests, 'request')} open, "
        f"{status.waiting} waiting; policy: {printable(status.policy)}"
    )
    if status.latency:
        head += f"\nlatency model: {printable(status.latency)}"
    rows = [_row(member) for member in members]
    return "\n".join([head, "", *(table(HEAD, rows, "HEARD DELAY UP") if rows else [])]).rstrip()


def _row(member: MemberStatus) -> tuple[str, ...]:
    unit = UNIT.get(member.role)
    return (
        member.name,
        member.role,
        member.state,
        duration(member.silence),
        bar(member.used, member.total) if unit else "",
        f"{member.used} of {member.total} {unit}" if unit else "",
        count(member.active, BUSY.get(member.role, "task")),
        duration(member.delay) if member.role == "prefill-worker" else "",
        duration(member.age),
    )


def _place(member: MemberStatus) -> tuple[int, list[tuple[int, str]]]:
    # Numbers in names count as numbers: worker-10 comes after worker-9.
    parts = re.findall(r"\d+|\D+", member.name)
    name = [(int(part), "") if part.isdigit() else (-1, part) for part in parts]
    return ORDER.index(member.role), name
