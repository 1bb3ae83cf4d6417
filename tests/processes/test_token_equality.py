"""Whatever the plan, the mesh says what `transformers` alone says, in float32."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from transformers import PreTrainedTokenizerBase

from tests.processes.real_mesh import RealMesh
from tests.processes.reference import Greedy, Reference

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

LENGTHS = (1, 2, 7, 17, 511, 512, 2000, 6000)
PLANS = ("1", "2", "4", "1,2", "1,2,4")
TOKENS = 32
TOLERANCE = 1e-3


def has_empty_chunk(length: int, plan: str) -> bool:
    return length < len(plan.split(","))


@pytest.fixture(scope="module")
def answers(mesh: RealMesh, text_ids: list[int]) -> dict[tuple[int, str], Any]:
    def ask(cell: tuple[int, str]) -> Any:
        length, plan = cell
        body = {
            "model": "smollm2",
            "prompt": text_ids[:length],
            "max_tokens": TOKENS,
            "temperature": 0,
            "ignore_eos": True,
            "logprobs": 5,
        }
        return mesh.complete(body, {"x-tetris-plan": plan})

    cells = [(length, plan) for length in LENGTHS for plan in PLANS]
    with ThreadPoolExecutor(4) as pool:
        return dict(zip(cells, pool.map(ask, cells), strict=True))


@pytest.fixture(scope="module")
def expected(reference: Reference, text_ids: list[int], answers: object) -> dict[int, Greedy]:
    return {length: reference.greedy(text_ids[:length], TOKENS) for length in LENGTHS}


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("length", LENGTHS)
def test_greedy_tokens_equal_the_reference_under_every_plan(
    length: int,
    plan: str,
    answers: dict[tuple[int, str], Any],
    expected: dict[int, Greedy],
    tokenizer: PreTrainedTokenizerBase,
    record_property: Any,
) -> None:
    answer = answers[length, plan]
    if has_empty_chunk(length, plan):
        assert answer["error"]["code"] == 400
        assert "token" in answer["error"]["message"]
        return
    choice = answer["choices"][0]
    want = expected[length]
    assert choice["text"] == tokenizer.decode(want.ids)
    got = choice["logprobs"]["token_logprobs"]
    assert len(got) == TOKENS
    worst = max(
        abs(value - float(row[token]))
        for value, row, token in zip(got, want.logprobs, want.ids, strict=True)
    )
    record_property("worst_logprob_difference", worst)
    assert worst <= TOLERANCE
