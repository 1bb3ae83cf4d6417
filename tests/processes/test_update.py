"""The policy of a mesh changes again and again under load, and nobody's text does."""

import itertools
import json
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.faults import control
from tests.processes.real_mesh import RealMesh, running_mesh

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

LENGTHS = (90, 240, 150, 320)
TOKENS = 8
CLIENTS = 4
PLANS = 4
"""Requests that are planned under every schedule, at least."""
LIMIT = 120.0
LOADS = "improvement_rate_mapping"
CHANGES: tuple[dict[str, Any], ...] = (
    {"policy": "single-chunk", LOADS: {"0.5": 0.1, "2": 0.75}},
    {"policy": "fixed-sp:2", "improvement_rate_update_period": 1.0},
    {"policy": "cdsp-priced", LOADS: {"1": 0.3}, "priced": {"order": "slope:3", "base": 4}},
    {"policy": "cdsp", LOADS: {}, "sp_size_candidates": [1, 2]},
    {"policy": "fixed-sp:1", LOADS: {"0.5": 0.05}},
    {"policy": "cdsp", "sp_size_candidates": [1, 2, 4]},
)
BAD = ({"policy": "best", "min_chunk": 9}, {"policy": "fixed-sp:3"}, {LOADS: {"0.5": 1}})


class Stream:
    """Clients that ask one request after the other until they are told to stop."""

    def __init__(self, mesh: RealMesh, bodies: list[dict[str, Any]]) -> None:
        self._mesh = mesh
        self._bodies = bodies
        self._enough = threading.Event()

    def stop(self) -> None:
        """Nothing more is asked."""
        self._enough.set()

    def run(self, first: int) -> list[tuple[int, Any]]:
        """All that one client has got: which request, and its choices."""
        got = []
        for index in itertools.count(first):
            if self._enough.is_set():
                return got
            which = index % len(self._bodies)
            got.append((which, self._mesh.complete(self._bodies[which]).get("choices")))
        raise AssertionError("unreachable")


def change(mesh: RealMesh, wanted: dict[str, Any]) -> None:
    """Change the schedule; the answer is the whole one, and so is what is told from then on."""
    status, told = control.post(f"{mesh.control}/update", wanted)
    assert status == 200, told
    for key in wanted.keys() - {"priced"}:
        assert told["schedule"][key] == wanted[key]
    assert told["schedule"]["priced"].items() >= wanted.get("priced", {}).items()
    assert control.ask(f"{mesh.control}/update")["schedule"] == told["schedule"]


def refuse_all_bad(mesh: RealMesh) -> None:
    before = control.ask(f"{mesh.control}/update")["schedule"]
    for wanted in BAD:
        assert control.post(f"{mesh.control}/update", wanted)[0] == 400
    assert control.ask(f"{mesh.control}/update")["schedule"] == before


def plans(mesh: RealMesh, policy: str) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Every plan in the router's log: the policy in force, and the sizes of its chunks."""
    for line in list(mesh.lines):
        if '"scheduled"' not in line and '"planned"' not in line:
            continue
        event = json.loads(line[line.find("{") :])
        if event["event"] == "scheduled":
            policy = event["policy"]
        elif event["event"] == "planned":
            chunks = str(event["chunks"]).split(" → ")
            yield policy, tuple(int(chunk.partition(":")[0]) for chunk in chunks)


def await_empty(mesh: RealMesh) -> None:
    deadline = time.monotonic() + LIMIT
    while (left := control.ledger(mesh.control)) != []:
        assert time.monotonic() < deadline, left
        time.sleep(0.1)


def test_every_request_is_answered_the_same_while_policies_come_and_go(text_ids: list[int]) -> None:
    bodies = [
        {
            "model": "smollm2",
            "prompt": text_ids[1000 * index : 1000 * index + length],
            "max_tokens": TOKENS,
            "temperature": 0,
            "ignore_eos": True,
        }
        for index, length in enumerate(LENGTHS)
    ]
    with running_mesh("--prefill", "3", "--decode", "1") as mesh:
        alone = [mesh.complete(body)["choices"] for body in bodies]
        stream, began = Stream(mesh, bodies), time.monotonic()
        with ThreadPoolExecutor(CLIENTS) as pool:
            clients = [pool.submit(stream.run, first) for first in range(CLIENTS)]
            try:
                for wanted in CHANGES:
                    mesh.wait_for("planned", len(mesh.events("planned")) + PLANS, limit=LIMIT)
                    change(mesh, wanted)
                    refuse_all_bad(mesh)
                mesh.wait_for("planned", len(mesh.events("planned")) + PLANS, limit=LIMIT)
            finally:
                stream.stop()
            got = [one for client in clients for one in client.result()]
        seconds = time.monotonic() - began
        await_empty(mesh)
        made = Counter(plans(mesh, "cdsp"))
        assert len(mesh.events("scheduled")) == len(CHANGES)
    lost = [which for which, choices in got if choices != alone[which]]
    assert lost == []
    assert {policy for policy, _ in made} == {"cdsp", *(one["policy"] for one in CHANGES)}
    assert {sizes for policy, sizes in made if policy == "fixed-sp:2"} == {(2,)}
    assert {sizes for policy, sizes in made if policy == "fixed-sp:1"} == {(1,)}
    assert all(len(sizes) == 1 for policy, sizes in made if policy == "single-chunk")
    shown = "; ".join(
        f"{policy}: {count} x SP {' then '.join(map(str, sizes))}"
        for (policy, sizes), count in sorted(made.items())
    )
    sys.stdout.write(
        f"\n{len(got)} requests by {CLIENTS} clients in {seconds:.0f} s, {len(CHANGES)} switches, "
        f"{len(CHANGES) * len(BAD)} refused updates, {len(lost)} lost or changed\n{shown}\n"
    )
