"""What can be seen of a long prompt on a real mesh: where its TTFT went, its plan, its trace."""

import json
import re
import urllib.request
from typing import Any

import pytest

from tests.gateway.chrome import check
from tests.processes.real_mesh import RealMesh

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

COMPONENTS = ("tokenize", "admission", "plan", "queue", "balance", "prefill", "deliver")


def fetch(url: str) -> Any:
    with urllib.request.urlopen(url, timeout=60) as answer:
        return answer.read().decode()


def sums(mesh: RealMesh) -> dict[str, float]:
    """Seconds of all requests so far: of each component, and of TTFTs as they were measured."""
    text = fetch(f"{mesh.url}/metrics")
    part = r'tetris_ttft_component_seconds_sum\{component="(\w+)"\} (\S+)'
    found = {name: float(value) for name, value in re.findall(part, text)}
    whole = re.findall(r"vllm:time_to_first_token_seconds_sum\{.*?\} (\S+)", text)
    return {**dict.fromkeys(COMPONENTS, 0.0), **found, "ttft": sum(map(float, whole))}


def test_where_the_ttft_of_a_long_prompt_went(mesh: RealMesh, text_ids: list[int]) -> None:
    before = sums(mesh)
    body = {"model": "smollm2", "prompt": text_ids[:6000], "max_tokens": 3, "temperature": 0}
    answer = mesh.complete({**body, "ignore_eos": True})
    after = sums(mesh)
    spent = {name: after[name] - before[name] for name in after}
    ttft = spent.pop("ttft")
    assert set(spent) == set(COMPONENTS)
    assert sum(spent.values()) == pytest.approx(ttft, abs=1e-6)
    assert all(seconds >= 0 for seconds in spent.values())
    assert spent["deliver"] <= 0.05 * ttft
    assert spent["prefill"] >= 0.5 * ttft

    account = json.loads(fetch(f"{mesh.control}/tetris/requests/{answer['id']}"))
    first = account["ttft"]
    assert first["measured"] == pytest.approx(ttft, abs=1e-6)
    assert first["components"] == pytest.approx(spent, abs=1e-6)
    assert set(account["second_token"]["components"]) == {"transfer", "admit", "step"}

    (attempt,) = account["attempts"]
    # Moments of three processes, on one clock: gateway, router, prefill instances.
    arrived, plan = account["arrived"], attempt["plan"]
    (*_, last) = chunks = plan["chunks"]
    assert sum(chunk["length"] for chunk in chunks) == 6000
    ends = [work["ended"] for work in last["measured"]["members"]]
    assert arrived <= plan["arrived"] <= plan["at"] <= min(ends)
    assert max(ends) == pytest.approx(arrived + ttft, abs=0.5)
    assert {work["member"] for work in last["measured"]["members"]} == set(last["members"])

    explained = account["explanation"]["plan"]
    assert explained["ttft"] == plan["ttft"]
    assert any(candidate["accepted"] for candidate in explained["candidates"])

    trace = json.loads(fetch(f"{mesh.control}/tetris/trace?seconds=600"))
    check(trace)
    assert sum("chunk" in event["name"] for event in trace["traceEvents"]) >= len(chunks)
