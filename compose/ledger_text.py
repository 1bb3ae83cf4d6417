"""The answer to `tetris ledger`, for people."""

from common.messages import Ledger, LedgerEntry
from compose.table import count, duration, table

HEAD = ("MEMBER", "REQUEST", "ATTEMPT", "HOLDS", "FOR", "LEASE", "OWNER")
NOTHING = "nothing is held: every KV slot and every backend is free"


def ledger_text(ledger: Ledger) -> str:
    """One line for each holding, by member and age, and a line of sums."""
    entries = sorted(ledger.entries, key=lambda e: (e.member, -e.age, e.request, e.attempt))
    if not entries:
        return NOTHING
    rows = [_row(entry) for entry in entries]
    return "\n".join([*table(HEAD, rows, "ATTEMPT HOLDS FOR LEASE"), "", _sums(ledger)])


def _row(entry: LedgerEntry) -> tuple[str, ...]:
    return (
        entry.member,
        entry.request,
        str(entry.attempt),
        count(entry.slots, _unit(entry)),
        duration(entry.age),
        duration(entry.lease),
        "live" if entry.live else "orphan",
    )


def _sums(ledger: Ledger) -> str:
    units = {"slot": 0, "backend": 0}
    for entry in ledger.entries:
        units[_unit(entry)] += entry.slots
    requests = {entry.request for entry in ledger.entries}
    orphans = sum(not entry.live for entry in ledger.entries)
    held = ", ".join(count(number, unit) for unit, number in units.items())
    text = f"total: {held}, held for {count(len(requests), 'request')}; "
    text += count(orphans, "orphan") if orphans else "no orphans"
    hidden = ledger.num_entries - len(ledger.entries)
    return f"{text}; {hidden} more not shown" if hidden > 0 else text


def _unit(entry: LedgerEntry) -> str:
    return "backend" if entry.role == "kv-transfer" else "slot"
