"""Fixed-SP, the baseline of serving systems: every request takes one of some fixed groups.

Source:
    Specification, section 9, baselines.
"""

from common.latency import predict
from services.router.plan import PoolView
from services.router.search import Found, Problem, Step


def fixed(problem: Problem) -> Found:
    """The whole prompt on the group of that one size that is free first."""
    (size,), (curve,) = problem.sizes, problem.curves
    delays = problem.view.delays
    groups = _groups(problem.view, size)
    wait, group = min((max(delays[index] for index in group), group) for group in groups)
    predicted = predict(curve, problem.history, problem.length)
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
