"""Why a request has got its plan, as JSON for people; moments are seconds since 1970.

Everything is recomputed when somebody asks. Lists that would make the answer too long are cut.
"""

import math
from collections.abc import Iterator
from typing import Final, NamedTuple

from msgspec import Struct, json, structs

from common.errors import RequestFailed
from services.router.decisions import Decision
from services.router.explain import Explanation, explain
from services.router.plan import PoolView
from services.router.plan_answer import ChunkingAnswer, PlanAnswer, plan_answer
from services.router.wall import Wall

MAX_BYTES: Final = 524_288
"""Of `common.messages.Explained`."""
MOST_STEPS: Final = 20_000
"""Of the search that is told: half a second or so, in which the router does nothing else."""
MAX_PROBLEM = 1000
"""Characters."""


class _Cut(NamedTuple):
    """Entries of a list of names, and of one of candidates or chunkings, at most."""

    names: int
    rows: int


CUTS = (_Cut(1024, 2048), _Cut(256, 256), _Cut(16, 64))
"""The first with which the answer is short enough; the last one always is."""


class InstanceAnswer(Struct, frozen=True):
    """A prefill instance that could take part, and the seconds until it was free."""

    name: str
    node: str
    delay: float


class MeasuredAnswer(Struct, frozen=True):
    """One chunk as far as its members have told; see `services.router.decisions.Measured`."""

    index: int
    members: int
    seconds: float
    gather: float
    balance: float
    compute: float
    wait: float
    ended: float


class LeftOut(Struct, frozen=True):
    """Entries for which there was no room."""

    instances: int = 0
    candidates: int = 0
    chunkings: int = 0


class DecisionAnswer(Struct, frozen=True):
    """The newest plan of a request, what it was chosen from, and what came of it.

    `problem` says why the plan cannot be explained, if so. `waited` is from the arrival to the
    plan; the seconds in `plan` begin with the plan.
    """

    request: str
    attempt: int
    arrived: float
    planned: float
    waited: float
    policy: str
    improvement_rate: float
    price: float
    forced: str | None
    decode: str
    ttft: float
    shadow: float | None
    instances: tuple[InstanceAnswer, ...]
    plan: PlanAnswer
    measured: tuple[MeasuredAnswer, ...]
    problem: str | None
    left_out: LeftOut


def decision_answer(decision: Decision, wall: Wall) -> bytes:
    """The answer, at most `MAX_BYTES` long."""
    whole = _answer(decision, wall)
    texts = (json.encode(_cut(whole, cut)) for cut in CUTS)
    return next(text for text in texts if len(text) <= MAX_BYTES)


def _answer(decision: Decision, wall: Wall) -> DecisionAnswer:
    plan = decision.plan
    told, problem = _told(decision)
    return DecisionAnswer(
        request=decision.owner.request,
        attempt=decision.owner.attempt,
        arrived=wall.at(decision.arrived),
        planned=wall.at(decision.planned),
        waited=decision.planned - decision.arrived,
        policy=plan.rule,
        improvement_rate=plan.policy.rate,
        price=plan.policy.price,
        forced=plan.forced,
        decode=decision.decode,
        ttft=plan.ttft,
        shadow=decision.shadow,
        instances=tuple(_instances(plan.view)),
        plan=plan_answer(told, []),
        measured=tuple(_measured(decision, wall)),
        problem=problem,
        left_out=LeftOut(),
    )


def _told(decision: Decision) -> tuple[Explanation, str | None]:
    try:
        return explain(decision.plan, decision.model, MOST_STEPS), None
    except (ValueError, RequestFailed) as error:
        return Explanation(decision.plan, (), ()), str(error)[:MAX_PROBLEM]


def _instances(view: PoolView) -> Iterator[InstanceAnswer]:
    for name, node, delay in zip(view.names, view.nodes, view.delays, strict=True):
        yield InstanceAnswer(name, node, delay)


def _measured(decision: Decision, wall: Wall) -> Iterator[MeasuredAnswer]:
    for index, one in sorted(decision.measured.items()):
        yield MeasuredAnswer(
            index=index,
            members=one.num_members,
            seconds=one.seconds,
            gather=one.gather,
            balance=one.balance,
            compute=one.compute,
            wait=one.wait,
            ended=wall.at(one.ended),
        )


def _cut(whole: DecisionAnswer, cut: _Cut) -> DecisionAnswer:
    plan = whole.plan
    chunkings = _fastest(plan.chunkings, cut.rows)
    candidates = [
        structs.replace(one, group=one.group[: cut.names]) for one in plan.candidates[: cut.rows]
    ]
    chunks = [structs.replace(one, group=one.group[: cut.names]) for one in plan.chunks]
    return structs.replace(
        whole,
        instances=whole.instances[: cut.names],
        plan=structs.replace(
            plan, chunks=tuple(chunks), candidates=tuple(candidates), chunkings=chunkings
        ),
        left_out=LeftOut(
            instances=len(whole.instances[cut.names :]),
            candidates=len(plan.candidates[cut.rows :]),
            chunkings=len(plan.chunkings) - len(chunkings),
        ),
    )


def _fastest(chunkings: tuple[ChunkingAnswer, ...], count: int) -> tuple[ChunkingAnswer, ...]:
    """The chosen one and the fastest others, in their order."""

    def rank(index: int) -> tuple[bool, float]:
        one = chunkings[index]
        return not one.chosen, math.inf if one.ttft is None else one.ttft

    kept = sorted(sorted(range(len(chunkings)), key=rank)[:count])
    return tuple([chunkings[index] for index in kept])
