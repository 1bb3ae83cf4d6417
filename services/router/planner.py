"""Which chunks of a prompt run on which instances, under every policy.

A plain object: it reads a view of the pool and answers with a plan, whose books others keep.
Router, simulator and explanations ask the same one.
"""

from collections.abc import Callable

from common.errors import RequestFailed
from common.latency import LatencyModel
from common.messages import Chunk
from services.router import search
from services.router.fixed import fixed
from services.router.plan import NOTHING, Plan, Policy, PoolView, Reused
from services.router.search import Found, Problem

SEARCH: Callable[[Problem], Found] = search.search
try:
    from services.router import _search
except ImportError:
    pass
else:
    SEARCH = _search.search
"""The compiled search, the same as the other one; it is missing where no C compiler was."""


class Planner:
    """One policy: `cdsp`, `single-chunk`, `loongserve`, `cdsp-priced` or `fixed-sp`."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy

    def plan(
        self, length: int, view: PoolView, model: LatencyModel, reused: Reused = NOTHING
    ) -> Plan:
        """The policy's plan for `length` tokens, >= 1, after those that are reused.

        Raises:
            RequestFailed: no SP candidate is both in the model and within the pool, or no fixed
                group holds what is reused.
        """
        problem = problem_of(self.policy, length, view, model, reused)
        found = fixed(problem) if self.policy.name == "fixed-sp" else SEARCH(problem)
        return plan_of(found, view, self.policy, reused)


def problem_of(
    policy: Policy,
    length: int,
    view: PoolView,
    model: LatencyModel,
    reused: Reused = NOTHING,
) -> Problem:
    """What a policy wants to have solved.

    Args:
        policy: of the plan.
        length: tokens to compute.
        view: the pool.
        model: seconds of a chunk.
        reused: tokens that need no computing, and the instances of the view that hold them.

    Raises:
        RequestFailed: no SP candidate is both in the model and within the pool.
    """
    members = tuple([view.names.index(name) for name in reused.members])
    sizes = usable_sizes(policy.sizes, view, model, len(members))
    return Problem(
        length=length,
        history=reused.tokens,
        members=members,
        view=view,
        sizes=sizes,
        curves=tuple([model.curves[size] for size in sizes]),
        keep=1.0 if policy.name == "loongserve" else 1 - policy.rate,
        min_chunk=policy.min_chunk,
        chunkwise=policy.name in ("cdsp", "cdsp-priced"),
        price=policy.price if policy.name == "cdsp-priced" else None,
        fewest=policy.fewest,
    )


def usable_sizes(
    sizes: tuple[int, ...], view: PoolView, model: LatencyModel, least: int = 1
) -> tuple[int, ...]:
    """The candidates, `least` or more, that the pool can host and the model knows.

    Raises:
        RequestFailed: there is none.
    """
    most, curves = len(view.names), model.curves
    usable = tuple([size for size in sizes if least <= size <= most and size in curves])
    if not usable:
        raise RequestFailed(
            f"no SP size of schedule.sp_size_candidates {list(sizes)} fits {len(view.names)} "
            f"prefill instances and the latency model's sizes {list(model.sizes)}"
        )
    return usable


def plan_of(found: Found, view: PoolView, policy: Policy, reused: Reused = NOTHING) -> Plan:
    """What a search has found, with the inputs of the decision."""
    chunks, history = [], reused.tokens
    for step in found.steps:
        chunks.append(Chunk(history, step[0], step[1]))
        history += step[0]
    names = view.names
    return Plan(
        chunks=tuple(chunks),
        members=tuple([names[index] for index in found.members]),
        predicted=tuple([step[3] for step in found.steps]),
        ttft=found.ttft,
        view=view,
        policy=policy,
        wait=found.steps[0][2],
        reused=reused,
    )
