"""Why a plan is as it is, recomputed from what it stores; planning itself pays nothing for it."""

from dataclasses import dataclass

from common.latency import LatencyModel
from services.router.groups import Groups
from services.router.plan import Plan
from services.router.planner import usable_sizes


@dataclass(frozen=True, slots=True)
class Option:
    """One size for the whole prompt, as Algorithm 2 saw it; seconds."""

    size: int
    members: tuple[str, ...]
    wait: float
    predicted: float
    needed: float | None
    """TTFT below which it was worth taking; None for the first size."""

    @property
    def ttft(self) -> float:
        """Queuing and prefill."""
        return self.wait + self.predicted

    @property
    def accepted(self) -> bool:
        """Whether the next size had to beat this one."""
        return self.needed is None or self.ttft < self.needed


def explain(plan: Plan, model: LatencyModel) -> list[Option]:
    """Every single-chunk option, in the order in which they were tried."""
    groups = Groups.of(plan.view)
    options: list[Option] = []
    best: float | None = None
    for size in usable_sizes(plan.policy.sizes, plan.view, model):
        group = groups.extend(groups.start, size)
        option = Option(
            size=size,
            members=tuple(plan.view.names[index] for index in group.members),
            wait=group.delay,
            predicted=model.predict(size, 0, plan.length),
            needed=None if best is None else best * (1 - plan.policy.rate),
        )
        options.append(option)
        if option.accepted:
            best = option.ttft
    return options
