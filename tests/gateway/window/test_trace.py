import random

import pytest
from msgspec import structs

from common.events import Computed, Happening, Planned
from gateway.window.trace import Trace, short
from tests.gateway.chrome import check
from tests.gateway.happenings import MEMBERS, mesh_state, story

NODES = {"prefill-0": "node-0", "prefill-1": "node-0", "prefill-2": "node-1", "decode-0": "node-9"}


def traced(events: list[Happening], plan: Planned | None = None) -> list[dict]:
    trace = Trace(events[0].at, NODES, lambda *_: plan)
    records = [record for event in events for record in trace.add(event)]
    return check({"traceEvents": [*records, *trace.end()]})


def named(records: list[dict], name: str) -> list[dict]:
    return [record for record in records if record["name"] == name]


def test_machines_are_processes_and_instances_are_threads() -> None:
    records = traced([mesh_state(9.9), *story("r", 10.0)])
    processes = {r["args"]["name"]: r["pid"] for r in named(records, "process_name")}
    assert set(processes) == {"router", "node-0", "node-1", "node-9", "unknown machine"}
    threads = {r["args"]["name"]: r["pid"] for r in named(records, "thread_name")}
    assert threads["prefill-1"] == processes["node-0"]
    assert threads["prefill-3"] == processes["unknown machine"]
    assert threads["decode-0 #1"] == processes["node-9"]


def test_a_chunk_has_its_phases_inside_and_its_prediction_beside() -> None:
    records = traced(story("cmpl-0123456789abcdef", 10.0))
    chunks = named(records, "01234567 SP4 chunk 2/2")
    assert len(chunks) == 4
    chunk = chunks[0]
    assert chunk["args"]["length"] == 700
    assert (chunk["args"]["history"], chunk["args"]["predicted"]) == (300, 0.5)
    assert chunk["dur"] == pytest.approx(0.6e6, abs=1)
    assert chunk["ts"] + chunk["dur"] == pytest.approx(1.1e6, abs=1)
    inside = [
        (r["name"], round(r["dur"] / 1e6, 3))
        for r in records
        if r["ph"] == "X" and r["tid"] == chunk["tid"] and r["ts"] >= chunk["ts"] and r != chunk
    ]
    assert inside == [("gather", 0.02), ("balance", 0.1), ("compute", 0.48)]
    # The first chunk balances nothing, and shows no such phase.
    assert len(named(records, "balance")) == 4


def test_hand_over_is_an_arrow_from_every_member_to_decode() -> None:
    records = traced(story("r", 10.0))
    (decode,) = named(records, "decode r")
    assert decode["ts"] == pytest.approx(1.25e6, abs=1)
    assert decode["dur"] == pytest.approx(1.25e6, abs=1)
    flows = named(records, "hand-over")
    chunks = named(records, "r SP4 chunk 2/2")
    assert {r["tid"] for r in flows if r["ph"] == "s"} == {chunk["tid"] for chunk in chunks}
    assert {r["tid"] for r in flows if r["ph"] == "f"} == {decode["tid"]}
    assert len(flows) == 2 * len(MEMBERS)


def test_requests_that_are_decoded_at_the_same_time_have_threads_of_their_own() -> None:
    events = [*story("a", 10.0), *story("b", 10.5), *story("c", 20.0)]
    events.sort(key=lambda event: event.at)
    records = traced(events)
    rows = [named(records, f"decode {name}")[0]["tid"] for name in "abc"]
    assert rows[0] != rows[1]
    assert rows[2] in rows[:2]


def test_counters_follow_the_mesh() -> None:
    records = traced([mesh_state(1.0), mesh_state(2.0)])
    batch, fill = named(records, "decode-0 batch"), named(records, "decode-0 KV fill")
    assert [record["ts"] for record in batch] == [0.0, 1e6]
    assert (batch[0]["args"], fill[0]["args"]) == ({"requests": 2}, {"share": 0.25})
    assert named(records, "requests")[0]["args"] == {"waiting": 1, "all": 3}


def test_what_began_before_or_is_not_over_is_cut() -> None:
    events = story("r", 10.0)
    # The plan is known from before the trace; the first chunk's beginning was before it.
    plan = events[1]
    assert isinstance(plan, Planned)
    records = traced(events[3:-1], plan)
    assert len(named(records, "r SP2 chunk 1/2")) == 2
    assert named(records, "r SP2 chunk 1/2")[0]["ts"] == 0.0
    (decode,) = named(records, "decode r")
    assert decode["args"]["how"] == "open"
    assert len(named(traced(events[3:]), "r chunk 1")) == 2


def test_plans_and_ends_are_instants() -> None:
    records = traced(story("r", 10.0))
    (planned,), (over,) = named(records, "planned r"), named(records, "over r")
    assert (planned["ph"], over["ph"]) == ("i", "i")
    assert planned["args"]["chunks"] == [[300, 2], [700, 4]]
    assert over["args"]["how"] == "length"


def test_any_events_whatever_their_times_and_order_make_a_valid_trace() -> None:
    rng = random.Random(1)
    for _ in range(30):
        events = [mesh_state(5.0)]
        for number in range(20):
            members = rng.sample(MEMBERS, rng.randint(1, 4))
            events += story(f"r{number % 15}", rng.uniform(0, 5), members, rng.randint(1, 2))
        events = [e for e in events if rng.random() < 0.8]
        rng.shuffle(events)
        moved = [structs.replace(e, at=max(0.0, e.at + rng.uniform(-1, 1))) for e in events]
        records = traced(moved)
        shown = sum("chunk" in record["name"] for record in records)
        assert shown == sum(isinstance(event, Computed) for event in moved)


def test_names_are_short() -> None:
    assert short("chatcmpl-0123456789abc") == "01234567"
    assert short("r") == "r"
