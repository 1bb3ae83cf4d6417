from common.messages import Ledger, LedgerEntry
from compose.ledger_text import NOTHING, ledger_text

DECODE = LedgerEntry("decode-worker-0", "decode-worker", "cmpl-1", 1, 384, 1.25, 59.5, live=True)
ORPHAN = LedgerEntry("prefill-worker-0", "prefill-worker", "cmpl-2", 3, 16, 200.0, 1.0, live=False)
LOAN = LedgerEntry("kv-transfer", "kv-transfer", "cmpl-1", 1, 1, 0.5, 60.0, live=True)


def test_who_holds_what_for_whom_and_the_sums():
    text = ledger_text(Ledger(1, (ORPHAN, LOAN, DECODE), 3))
    assert text.splitlines() == [
        "MEMBER            REQUEST  ATTEMPT      HOLDS    FOR  LEASE  OWNER",
        "decode-worker-0   cmpl-1         1  384 slots  1.2 s   60 s  live",
        "kv-transfer       cmpl-1         1  1 backend  0.5 s   60 s  live",
        "prefill-worker-0  cmpl-2         3   16 slots  3 min  1.0 s  orphan",
        "",
        "total: 400 slots, 1 backend, held for 2 requests; 1 orphan",
    ]


def test_what_had_no_room_is_counted():
    last = ledger_text(Ledger(1, (DECODE,), 5000)).splitlines()[-1]
    assert last == (
        "total: 384 slots, 0 backends, held for 1 request; no orphans; 4999 more not shown"
    )


def test_nothing_held_is_said_in_words():
    assert ledger_text(Ledger(1, (), 0)) == NOTHING


def test_the_oldest_holding_of_a_member_comes_first():
    young = LedgerEntry("decode-worker-0", "decode-worker", "cmpl-0", 1, 1, 0.1, 1.0, live=True)
    lines = ledger_text(Ledger(1, (young, DECODE), 2)).splitlines()
    assert [line.split()[1] for line in lines[1:3]] == ["cmpl-1", "cmpl-0"]
