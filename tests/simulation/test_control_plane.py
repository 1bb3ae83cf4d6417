"""The whole control plane with emulated engines: LLaMA3-8B on two nodes of eight A100s.

Any message may get lost, come twice, late, or (see `test_scenario`) before those that were sent
earlier, but for `RingReady` and `RingAbort`: a ring repeats nothing, its link is a reliable one
that fails only with its ends. Processes that die, stand still and come back are for
`test_scenario` too.
"""

import asyncio
import random
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from common.memory_transport import Faults
from common.messages import Accepted
from tests.simulation.client import Answer
from tests.simulation.cluster import Cluster
from tests.simulation.questions import Question, poisson
from tests.simulation.virtual_loop import run
from tests.simulation.world import World

LOSSY = Faults(min_delay=0.0, max_delay=0.0, loss=0.01)
TIGHT = Cluster(prefill_tokens=40_000, decode_tokens=160_000, backends=2, error=0.2)


def play(
    path: Path, cluster: Cluster, questions: Sequence[Question]
) -> tuple[World, dict[str, Answer]]:
    """All questions answered, and all answers right; nothing is held afterwards."""

    async def main() -> tuple[World, dict[str, Answer]]:
        world = World(path, cluster)
        async with world.running():
            answers = await world.ask_all(questions)
            assert await world.settled() == []
        return world, answers

    world, answers = run(main())
    assert world.judge.violations == []
    assert {name: answer.tokens for name, answer in answers.items()} == {
        question.name: world.expected(question) for question in questions
    }
    return world, answers


@pytest.mark.parametrize("rate", [0.5, 2.0, 4.0])
def test_a_hundred_requests_are_answered_when_the_router_says(tmp_path: Path, rate: float) -> None:
    questions = poisson(100, rate, seed=1)
    world, answers = play(tmp_path, Cluster(), questions)
    assert len(world.predicted) == 100
    assert max(answer.ttft for answer in answers.values()) > 2.0
    for name, answer in answers.items():
        # Submit, RunChunk and FirstToken travel for 2 ms at most, and so does each Ready.
        assert answer.ttft == pytest.approx(world.predicted[name], abs=0.008)


def test_the_same_seed_gives_the_same_run_and_another_seed_another(tmp_path: Path) -> None:
    questions = poisson(20, 1.0, seed=2)
    faults = Faults(loss=0.01, duplication=0.01)
    runs = [
        play(tmp_path, Cluster(error=0.1, faults=faults, link_faults=LOSSY, seed=seed), questions)
        for seed in (1, 1, 2)
    ]
    (first, answers), (again, same), (other, different) = runs
    assert first.network.trace == again.network.trace
    assert answers == same
    assert first.network.trace != other.network.trace
    assert answers != different


@pytest.mark.parametrize("seed", range(2))
def test_requests_that_do_not_fit_wait_their_turn(tmp_path: Path, seed: int) -> None:
    questions = poisson(50, 3.0, seed)
    world, answers = play(tmp_path, TIGHT, questions)
    assert waited(world) > 5
    assert len(world.predicted) == len(answers) == 50


def waited(world: World) -> int:
    """Requests that were accepted before they had a plan."""
    told = (event.message for event in world.history.events if event.way == "took")
    accepted = Counter(one.request for one in told if isinstance(one, Accepted))
    return sum(times > 1 for times in accepted.values())


@pytest.mark.parametrize("seed", range(2))
def test_a_lossy_network_costs_time_alone(tmp_path: Path, seed: int) -> None:
    faults = Faults(max_delay=0.05, loss=0.02, duplication=0.02)
    cluster = Cluster(error=0.1, faults=faults, link_faults=LOSSY, seed=seed)
    world, _ = play(tmp_path, cluster, poisson(50, 2.0, seed))
    assert world.network.num_lost > 100
    assert world.links.num_lost > 100


@pytest.mark.parametrize("seed", range(2))
def test_clients_that_leave_at_any_time_leave_nothing_behind(tmp_path: Path, seed: int) -> None:
    questions, rng = poisson(50, 1.5, seed), random.Random(seed)
    answers: dict[str, Answer] = {}

    async def main() -> World:
        faults = Faults(max_delay=0.05, loss=0.02, duplication=0.02)
        world = World(tmp_path, replace(TIGHT, faults=faults, link_faults=LOSSY, seed=seed))

        async def one(question: Question, patience: float) -> None:
            await asyncio.sleep(question.arrival)
            with suppress(TimeoutError):
                async with asyncio.timeout(patience):
                    answers[question.name] = await world.ask(question)

        async with world.running():
            async with asyncio.TaskGroup() as group:
                for question in questions:
                    group.create_task(one(question, rng.expovariate(0.05)))
            assert await world.settled() == []
        return world

    world = run(main())
    assert 5 < len(answers) < 45
    for question in questions:
        if question.name in answers:
            assert answers[question.name].tokens == world.expected(question)


def test_a_request_that_decode_gives_back_goes_on_with_its_next_token(tmp_path: Path) -> None:
    # Together they outgrow the reserved 256 slots each; the pool has room for one more page run.
    questions = [Question(f"r{number}", 0.1 * number, 5_000, 1_000) for number in range(6)]
    cluster = Cluster(num_decode=1, decode_tokens=6 * 5_300)
    world, _ = play(tmp_path, cluster, questions)
    assert world.num_retries > 0
