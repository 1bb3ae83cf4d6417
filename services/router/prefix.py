"""How much of a cached prefix to reuse: the planner is asked once for every share of it.

A planning variant of its own; the router keeps no prefixes.

Source:
    Specification, section 6, prefix caching.
"""

from typing import NamedTuple

from common.errors import RequestFailed
from common.latency import LatencyModel
from services.router.plan import Plan, Policy, PoolView, Reused
from services.router.planner import Planner, usable_sizes
from services.router.search import cost


class Share(NamedTuple):
    """A plan that reuses a share of the prefix, and what it costs: what the policy minimises."""

    plan: Plan
    cost: float


def best_share(
    prefix: Reused, length: int, view: PoolView, policy: Policy, model: LatencyModel
) -> Plan:
    """The plan with the lowest cost; of equal ones the one that reuses least.

    Args:
        prefix: tokens at the prompt's beginning, cached in equal shares by its members in order.
        length: tokens of the prompt, prefix included.
        view: the pool.
        policy: of the plan.
        model: seconds of a chunk.

    Raises:
        RequestFailed: see `shares`.
    """
    return min(shares(prefix, length, view, policy, model), key=lambda share: share.cost).plan


def shares(
    prefix: Reused, length: int, view: PoolView, policy: Policy, model: LatencyModel
) -> list[Share]:
    """For nothing, the first member's share, the first two members', and so on, the best plan.

    Members beyond the largest SP candidate cannot all be in a group, so there it ends. At least
    one token is computed, however long the prefix.

    Raises:
        RequestFailed: the pool lacks a member, or no SP candidate is both in the model and within
            the pool.
    """
    unknown = set(prefix.members) - set(view.names)
    if unknown:
        raise RequestFailed(f"the pool has no {sorted(unknown)[0]}, which holds a prefix")
    largest = usable_sizes(policy.sizes, view, model)[-1]
    most = min(len(prefix.members), largest)
    found = []
    for count in range(most + 1):
        reused = _first(prefix, count, length)
        try:
            plan = Planner(policy).plan(length - reused.tokens, view, model, reused)
        except RequestFailed:
            # No fixed group has all of these, and so none has more of them.
            break
        found.append(Share(plan, _cost(plan)))
    return found


def _first(prefix: Reused, count: int, length: int) -> Reused:
    """What the first `count` members hold."""
    if not count:
        return Reused()
    tokens = prefix.tokens * count // len(prefix.members)
    return Reused(min(tokens, length - 1), prefix.members[:count])


def _cost(plan: Plan) -> float:
    if plan.policy.name != "cdsp-priced":
        return plan.ttft
    delays = dict(zip(plan.view.names, plan.view.delays, strict=True))
    return cost(plan.ttft, [delays[name] for name in plan.members], plan.policy.price)
