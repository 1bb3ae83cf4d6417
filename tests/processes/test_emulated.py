import json
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import pytest

from common.emulated_model import EmulatedModel
from common.messages import Sampling
from compose.launcher import Options, configure
from tests.processes.real_mesh import PRESET, RealMesh, is_alive, running_mesh

EMULATED = PRESET.parent / "emulated.toml"
MODEL = EmulatedModel.of(configure(Options(emulated=True, preset=str(EMULATED))))


def expected(seed: int, start: int, count: int) -> str:
    """What an emulated model says from that position on."""
    ids = [MODEL.sample(Sampling(seed=seed), start + index).id for index in range(count)]
    return bytes(ids).decode()


def ask(mesh: RealMesh, length: int, tokens: int, seed: int) -> tuple[str, dict[str, int]]:
    ids = [index % 256 for index in range(length)]
    body = {"model": "pretended", "prompt": ids, "max_tokens": tokens, "seed": seed}
    answer = mesh.complete(body)
    assert answer["choices"][0]["finish_reason"] == "length", answer
    return answer["choices"][0]["text"], answer["usage"]


def drain(mesh: RealMesh, name: str) -> None:
    request = urllib.request.Request(
        f"{mesh.control}/tetris/drain",
        data=json.dumps({"name": name}).encode(),
        headers={"content-type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=30):
        mesh.wait_for("stopped", name=name, limit=30.0)


@pytest.mark.slow
def test_an_emulated_mesh_serves_drains_a_worker_and_leaves_nothing_behind() -> None:
    asked = [(3000 + 500 * number, 20 + number, number) for number in range(8)]
    with running_mesh("--emulated", "--prefill", "5", model=None, preset=EMULATED) as mesh:
        pids = mesh.pids()
        workers = {"decode-worker-0", *(f"prefill-worker-{index}" for index in range(5))}
        assert set(pids) == {"router", "kv-transfer", "gateway", "emulated-workers"} | workers
        assert {pids[name] for name in workers} == {pids["emulated-workers"]}
        nodes = [event["node"] for event in mesh.events("started", service="prefill-worker")]
        assert nodes == ["node-0", "node-0", "node-0", "node-1", "node-1"]

        with ThreadPoolExecutor(len(asked)) as pool:
            answers = list(pool.map(lambda one: ask(mesh, *one), asked))
        for (length, tokens, seed), (text, usage) in zip(asked, answers, strict=True):
            assert (usage["prompt_tokens"], usage["completion_tokens"]) == (length, tokens)
            assert text == expected(seed, length, tokens)

        drain(mesh, "prefill-worker-1")
        assert ask(mesh, *asked[3]) == answers[3]
        last = mesh.events("planned")[-1]
        assert "prefill-worker-1" not in last["members"].split()
        assert is_alive(pids["emulated-workers"])
        assert not mesh.events("failed")
    assert not [name for name, pid in pids.items() if is_alive(pid)]
    assert len(mesh.events("stopped", service="prefill-worker")) == 5
