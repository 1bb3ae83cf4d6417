"""KV leaves while prefill still computes."""

import sys

import pytest

from tests.processes.real_mesh import RealMesh

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

SHARE = 0.8


@pytest.mark.parametrize("plan", ["1", "2", "1,2"])
def test_most_kv_has_left_before_prefill_ends(
    mesh: RealMesh, text_ids: list[int], plan: str
) -> None:
    seen = len(mesh.events("chunk_done"))
    body = {"model": "smollm2", "prompt": text_ids[:4000], "max_tokens": 2, "temperature": 0}
    assert "choices" in mesh.complete(body, {"x-tetris-plan": plan})
    sizes = [int(size) for size in plan.split(",")]
    mesh.wait_for("chunk_done", seen + sum(sizes))
    events = mesh.events("chunk_done")[seen:]
    total = sum(event["total_bytes"] for event in events)
    # What a chunk lacked at its own end may have left by the prefill's end: this is the least.
    missing = total - sum(event["sent_bytes"] for event in events)
    sys.stdout.write(f"plan {plan}: {100 * (1 - missing / total):.1f} % had left\n")
    assert 1 - missing / total >= SHARE
