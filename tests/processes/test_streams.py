"""Sampling, batching and sharing on a real mesh."""

import json
import sys
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.processes.real_mesh import RealMesh
from tests.processes.timeline import draw, spans

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def request(prompt: list[int], max_tokens: int, **more: Any) -> dict[str, Any]:
    return {
        "model": "smollm2",
        "prompt": prompt,
        "max_tokens": max_tokens,
        "temperature": 0,
        "ignore_eos": True,
        **more,
    }


def stream(mesh: RealMesh, body: dict[str, Any]) -> str:
    """The text of a streamed completion, event by event."""
    call = urllib.request.Request(
        f"{mesh.url}/v1/completions",
        data=json.dumps({**body, "stream": True}).encode(),
        headers={"content-type": "application/json"},
    )
    text = []
    with urllib.request.urlopen(call, timeout=600) as answer:
        for line in answer:
            if line.startswith(b"data: {"):
                event = json.loads(line[6:])
                text += [choice["text"] for choice in event["choices"]]
    return "".join(text)


def test_the_same_seed_gives_the_same_tokens_under_any_plan_and_among_any_neighbours(
    mesh: RealMesh, text_ids: list[int]
) -> None:
    body = request(text_ids[:300], 40, temperature=0.9, top_p=0.95, seed=1234)
    alone = mesh.complete(body, {"x-tetris-plan": "1"})["choices"][0]["text"]
    plans = ("1", "2", "4", "1,2", "1,2,4")
    neighbours = [request(text_ids[k : k + 90 + k], 40, temperature=1.0, seed=k) for k in range(6)]
    with ThreadPoolExecutor(12) as pool:
        for neighbour in neighbours:
            pool.submit(mesh.complete, neighbour)
        others = list(pool.map(lambda plan: mesh.complete(body, {"x-tetris-plan": plan}), plans))
    assert [answer["choices"][0]["text"] for answer in others] == [alone] * len(plans)
    another = mesh.complete({**body, "seed": 4321})["choices"][0]["text"]
    assert another != alone


def test_eight_concurrent_streams_equal_their_solo_runs(
    mesh: RealMesh, text_ids: list[int]
) -> None:
    lengths = (5, 40, 128, 300, 511, 700, 1000, 1500)
    bodies = [request(text_ids[n : 2 * n], 48) for n in lengths]
    solo = [stream(mesh, body) for body in bodies]
    seen = len(mesh.events("decoded"))
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda body: stream(mesh, body), bodies))
    assert together == solo
    shared = [event["shared_steps"] for event in mesh.events("decoded")[seen:]]
    assert len(shared) == 8
    assert sum(count > 0 for count in shared) >= 6, shared


def test_a_second_request_starts_in_the_gap_that_the_first_leaves(
    mesh: RealMesh, text_ids: list[int]
) -> None:
    """While a long request holds two instances, the next one starts on a third, then takes all."""
    seen, plans = len(spans(mesh)), len(mesh.events("planned"))
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(mesh.complete, request(text_ids[:3000], 4), {"x-tetris-plan": "2"})
        mesh.wait_for("planned", plans + 1)
        body = request(text_ids[:1500], 4)
        second = pool.submit(mesh.complete, body, {"x-tetris-plan": "1:300,4"})
        assert "choices" in first.result()
        assert "choices" in second.result()
    mesh.wait_for("chunk_done", seen + 7)
    drawn = spans(mesh)[seen:]
    late = next(span for span in drawn if span.index == 1).request
    early = [span for span in drawn if span.request != late]
    gap, rest = ([s for s in drawn if s.request == late and s.index == i] for i in (0, 1))
    assert [span.size for span in early] == [2, 2]
    assert gap[0].name not in {span.name for span in early}
    assert gap[0].end < max(span.end for span in early), draw(drawn)
    assert {span.name for span in early} < {span.name for span in rest}
    assert min(span.start for span in rest) >= max(span.end for span in early) - 0.1, draw(drawn)
    sys.stdout.write(f"\n{draw(drawn)}\n")
