"""What gateways are told of a mesh, against what happened in it: one run without any fault."""

from collections import defaultdict
from itertools import pairwise
from pathlib import Path

import pytest
from msgspec import json

from common import events
from common.messages import (
    Ask,
    ChunkTimes,
    EndOfRequest,
    Events,
    Explained,
    FirstToken,
    RunChunk,
    Times,
    TokenBatch,
)
from services.router.decision_answer import DecisionAnswer
from tests.simulation.cluster import Cluster
from tests.simulation.history import Event
from tests.simulation.questions import poisson
from tests.simulation.virtual_loop import run
from tests.simulation.world import World

QUESTIONS = poisson(12, 2.0, seed=3)
CLUSTER = Cluster(
    num_prefill=8, num_gateways=2, error=0.1, prefill_tokens=60_000, decode_tokens=400_000
)


class Run:
    """A run, and all that its messages tell."""

    def __init__(self, path: Path) -> None:
        async def main() -> World:
            world = World(path, CLUSTER)
            async with world.running():
                await world.ask_all(QUESTIONS)
                assert await world.settled() == []
                # All that has happened is told soon.
                world.router.tell(world.history.events[-1].time + 1.0)
                gateway = world.hosts["gateway-0"].process
                for question in QUESTIONS:
                    ask = Ask(1, gateway.mesh.inbox, "plan", question.name)
                    world.router.handle(ask, (), 0.0)
            return world

        self.world = run(main())
        self.history = self.world.history.events
        sent = [one for one in self.history if one.way == "sent"]
        self.runs = self._of(sent, RunChunk)
        self.firsts = self._of(sent, FirstToken)
        self.batches = self._of(sent, TokenBatch)
        self.ends = {one.request: one for one in self._of(sent, EndOfRequest)}
        self.explained = self._of(sent, Explained)
        self.told = defaultdict(list)
        for one in sent:
            if isinstance(one.message, Events):
                self.told[one.to.split("/")[2]].append(one.message)
        [self.events, _] = (
            [event for message in messages for event in message.events]
            for messages in self.told.values()
        )

    @staticmethod
    def _of(history: list[Event], kind: type) -> list:
        return [one.message for one in history if isinstance(one.message, kind)]

    def of(self, request: str) -> list[events.Happening]:
        return [one for one in self.events if getattr(one, "request", None) == request]

    def kind(self, request: str, kind: type) -> list:
        return [one for one in self.of(request) if isinstance(one, kind)]


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return Run(tmp_path_factory.mktemp("model"))


def test_every_gateway_is_told_everything_without_a_gap(played: Run) -> None:
    assert len(played.told) == CLUSTER.num_gateways
    first, second = played.told.values()
    assert first == second
    number = 0
    for message in first:
        assert message.first == number
        number += len(message.events)
    assert all(before.at <= after.at for before, after in pairwise(played.events))


def test_the_mesh_is_told_once_per_second_and_its_instances_were_busy(played: Run) -> None:
    states = [one for one in played.events if isinstance(one, events.MeshState)]
    gaps = [after.at - before.at for before, after in pairwise(states[:-1])]
    assert gaps == pytest.approx([1.0] * len(gaps), abs=0.05)
    for state in states:
        assert [len(part) for part in (state.prefill, state.decode, state.brokers)] == [8, 2, 1]
    # What the members say they have computed is what the states say they were busy.
    own = [
        one.compute + one.wait + one.balance
        for one in played.events
        if isinstance(one, events.Computed)
    ]
    passed = [after.at - before.at for before, after in pairwise(states)]
    seconds = [
        gap * sum(one.busy for one in state.prefill)
        for gap, state in zip(passed, states[1:], strict=True)
    ]
    assert sum(seconds) == pytest.approx(sum(own), rel=0.02)


@pytest.mark.parametrize("question", QUESTIONS, ids=lambda question: question.name)
def test_a_requests_events_are_its_plan_carried_out_in_order(played: Run, question) -> None:
    told = played.of(question.name)
    [planned] = played.kind(question.name, events.Planned)
    issued = [one for one in played.runs if one.request == question.name]
    assert planned.members == tuple(member.name for member in issued[0].members)
    assert [(one.length, one.size) for one in planned.chunks] == [
        (one.length, one.size) for one in issued[0].chunks
    ]
    assert planned.length == question.length
    kinds = [type(one) for one in told]
    if kinds[0] is events.Waits:
        told, kinds = told[1:], kinds[1:]
    assert kinds[0] is events.Planned
    sizes = [chunk.size for chunk in planned.chunks]
    began = [one.index for one in told if isinstance(one, events.Began)]
    assert began == list(range(len(sizes)))
    computed = defaultdict(list)
    for one in played.kind(question.name, events.Computed):
        computed[one.index].append(one.member)
    assert {index: sorted(names) for index, names in computed.items()} == {
        index: sorted(planned.members[:size]) for index, size in enumerate(sizes)
    }
    for index in began:
        places = [
            [
                place
                for place, one in enumerate(told)
                if isinstance(one, kind) and one.index == index
            ]
            for kind in (events.Began, events.Computed)
        ]
        assert max(places[0]) < min(places[1])
    handed_over = [one.member for one in told if isinstance(one, events.HandedOver)]
    assert sorted(handed_over) == sorted(planned.members)
    [decoding] = played.kind(question.name, events.Decoding)
    assert decoding.decode == planned.decode
    [over] = played.kind(question.name, events.Over)
    end = played.ends[question.name]
    assert (over.how, over.num_tokens) == (end.reason, end.num_tokens)
    assert planned.at <= min(one.at for one in told if one is not planned)
    assert decoding.at <= over.at


@pytest.mark.parametrize("question", QUESTIONS, ids=lambda question: question.name)
def test_the_times_to_the_first_token_part_it_without_a_rest(played: Run, question) -> None:
    [first] = [one for one in played.firsts if one.token.request == question.name]
    [planned] = played.kind(question.name, events.Planned)
    times = first.times
    assert isinstance(times, Times)
    assert len(times.chunks) == len(planned.chunks)
    assert (times.received, times.planned) == (planned.arrived, planned.at)
    moments = [times.received, times.planned, times.chunks[0].arrived]
    for chunk in times.chunks:
        assert isinstance(chunk, ChunkTimes)
        assert chunk.arrived <= chunk.begun
        assert 0.0 <= chunk.balance <= chunk.ended - chunk.gathered
        moments += [chunk.begun, chunk.gathered, chunk.ended]
    moments.append(times.sampled)
    assert moments == sorted(moments)
    parts = [after - before for before, after in pairwise(moments)]
    assert sum(parts) == pytest.approx(times.sampled - times.received, abs=1e-9)
    measured = [one.ended - one.gathered for one in times.chunks]
    predicted = [one.seconds for one in planned.chunks]
    assert measured == pytest.approx(predicted, rel=0.5)
    [joined] = [
        one for batch in played.batches for one in batch.joined if one.request == question.name
    ]
    [decoding] = played.kind(question.name, events.Decoding)
    assert times.sampled <= joined.committed <= joined.begun <= decoding.at


def test_every_plan_is_explained_bit_by_bit_and_with_what_was_measured(played: Run) -> None:
    assert len(played.explained) == len(QUESTIONS)
    for one, question in zip(played.explained, QUESTIONS, strict=True):
        answer = json.decode(one.explanation, type=DecisionAnswer)
        [planned] = played.kind(question.name, events.Planned)
        assert (answer.request, answer.problem) == (question.name, None)
        assert (answer.planned, answer.ttft) == (planned.at, planned.ttft)
        assert [chunk.length for chunk in answer.plan.chunks] == [
            chunk.length for chunk in planned.chunks
        ]
        assert [(chunk.index, chunk.members) for chunk in answer.measured] == [
            (index, chunk.size) for index, chunk in enumerate(planned.chunks)
        ]
    assert any(len(json.decode(one.explanation)["plan"]["chunks"]) > 1 for one in played.explained)
