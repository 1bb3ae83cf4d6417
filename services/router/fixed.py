"""Fixed-SP, the baseline of serving systems: every request takes one of some fixed groups.

Source:
    Specification, section 9, baselines.
"""

from common.errors import RequestFailed
from common.latency import predict
from services.router.plan import PoolView
from services.router.search import Found, Problem, Step
from services.router.trace import Closed, Looked, Trace


def fixed(problem: Problem, trace: Trace | None = None) -> Found:
    """The whole prompt on the group of that one size that is free first.

    Args:
        problem: to solve; of the groups only those with all of its members are asked.
        trace: takes what was looked at.

    Raises:
        RequestFailed: no group has them all.
    """
    (size,), (curve,) = problem.sizes, problem.curves
    delays = problem.view.delays
    groups = [
        group for group in _groups(problem.view, size) if set(problem.members).issubset(group)
    ]
    if not groups:
        raise RequestFailed(f"no fixed group of {size} has all instances with reused tokens")
    wait, group = min((max(delays[index] for index in group), group) for group in groups)
    predicted = predict(curve, problem.history, problem.length)
    if trace is not None:
        for one in groups:
            delay = max(delays[index] for index in one)
            trace.append(Looked((), one, delay, delay + predicted, None, one == group))
        trace.append(Closed((), problem.sizes, size))
    return Found(wait + predicted, (Step(problem.length, size, wait, predicted),), group)


def _groups(view: PoolView, size: int) -> list[tuple[int, ...]]:
    """Groups without a common instance, each on one node where a node is large enough."""
    nodes: dict[str, list[int]] = {}
    for index, node in enumerate(view.nodes):
        nodes.setdefault(node, []).append(index)
    groups: list[tuple[int, ...]] = []
    left: list[int] = []
    for members in nodes.values():
        whole = len(members) - len(members) % size
        groups += _cut(members[:whole], size)
        left += members[whole:]
    return groups + _cut(left[: len(left) - len(left) % size], size)


def _cut(members: list[int], size: int) -> list[tuple[int, ...]]:
    return [tuple(members[start : start + size]) for start in range(0, len(members), size)]
