"""Sampling, batching and sharing on a real mesh."""

import json
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
    """A long request runs 1 → 4; a short one of size 2 begins before the long one has ended."""
    seen = len(spans(mesh))
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(
            mesh.complete, request(text_ids[:2400], 4), {"x-tetris-plan": "1:1200,4"}
        )
        second = pool.submit(mesh.complete, request(text_ids[:600], 4), {"x-tetris-plan": "2"})
        assert "choices" in first.result()
        assert "choices" in second.result()
    drawn = spans(mesh)[seen:]
    requests = {span.request for span in drawn}
    assert len(requests) == 2
    long = next(span for span in drawn if span.index == 1).request
    short = [span for span in drawn if span.request != long]
    assert min(s.start for s in short) < max(s.end for s in drawn if s.request == long)
    busy = {s.name for s in drawn if s.request == long and s.index == 0}
    assert not busy & {s.name for s in short}, draw(drawn)
